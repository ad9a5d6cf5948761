"""Decoding by NVIDIA DALI: on a GPU by its video engine (NVDEC), with the same graph on the CPU for VP8, VP9, MJPEG."""

import os
import threading
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import torch

from phys4d.engine.data.decoders import orientation
from phys4d.engine.data.decoders.colours import MOST_SUSPECT
from phys4d.engine.data.decoders.dali_graph import BATCH, Decoded, Graph, Job, Kind
from phys4d.engine.data.decoders.interface import Frames, Request, Unservable
from phys4d.engine.data.decoders.judging import judged
from phys4d.engine.data.decoders.probe import SIGNED, Video, other_size, probe

_ON_CPU = frozenset({"vp8", "vp9", "mjpeg"})
# Smallest (height, width) of NVDEC, by codec.
_ON_GPU = {"h264": (16, 48), "hevc": (144, 144), "vp8": (16, 48), "vp9": (128, 128), "av1": (128, 128)}
_BT601, _BT709 = frozenset({2, 5, 6}), 1  # 2: not said, which FFmpeg takes for BT.601
_420 = frozenset({"yuv420p", "yuvj420p"})
_NO_CODEC = "not supported on this GPU"  # in DALI's error for a codec that this generation of GPUs lacks
_used: set[int] = set()  # ids of processes that have run a DALI pipeline


class DaliDecoder:
    """Decodes batches of clips: what several threads ask for at the same time is decoded in one run.

    It serves 4:2:0 with 8 bits. DALI converts every video by BT.601; BT.709 is corrected (`colours`), other matrices
    are not served. An edit list that hides frames is not served, since DALI would show them. Frames are turned by the
    display matrix. A clip on which DALI fails is decoded by PyAV, which decides whether it is damaged.

    device: "cuda:N", where the frames stay, or "cpu".
    """

    name = "dali"
    together = BATCH

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.version = _version()
        self._graphs: dict[Kind, Graph] = {}
        self._unsupported: dict[str, str] = {}  # by codec, what DALI said
        self._waiting: list[_Ticket] = []
        self._queue, self._running = threading.Lock(), threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return DaliDecoder, (self.device,)

    def refusal(self, video: Video) -> str | None:
        """Why DALI does not decode a video, or not with the colours and frames that a player shows."""
        on_gpu = self.device.type == "cuda"
        if video.container not in SIGNED:
            return f"DALI is given mp4, mov, webm and mkv only, it is {video.container}"
        if video.codec not in (_ON_GPU if on_gpu else _ON_CPU):
            if video.codec in _ON_GPU:
                return f"DALI decodes {video.codec} on a GPU only"
            return f"DALI does not decode {video.codec}" + (" on a GPU" if on_gpu else "")
        if video.codec in self._unsupported:
            return self._unsupported[video.codec]
        if video.pixel_format not in _420:
            return f"DALI takes 4:2:0 with 8 bits (yuv420p), it is {video.pixel_format}"
        if video.matrix not in _BT601 and video.matrix != _BT709:
            return f"DALI converts colours by BT.601, which can be corrected to BT.709 only: it is {video}"
        if video.full_range and on_gpu:
            return "DALI on a GPU takes colours of limited range, its are of full range"
        if video.hidden:
            return f"its edit list hides {video.hidden} frames, which DALI would show"
        least = _ON_GPU[video.codec] if on_gpu else (0, 0)
        if video.stored[0] < least[0] or video.stored[1] < least[1]:
            height, width = video.stored
            return f"it is {height}x{width}, the GPU decodes {video.codec} from {least[0]}x{least[1]} on"
        return None

    def decode_many(self, requests: Sequence[Request], *, normalised: bool = False) -> list[Frames | ValueError]:
        """See `VideoDecoder`."""
        tickets = [_Ticket(request, normalised) for request in requests]
        for ticket in tickets:
            ticket.prepare(self)
        if os.getpid() not in _used and _used:
            raise RuntimeError("DALI ran before this process was forked, and would not answer: start it by spawn")
        asked = [ticket for ticket in tickets if ticket.job is not None]
        with self._queue:
            self._waiting += asked
        with self._running:
            while any(ticket.result is None for ticket in asked):
                self._run_next()
        return [ticket.answer() for ticket in tickets]

    def _run_next(self) -> None:
        """One run, of waiting clips that share a graph, whichever thread asked for them."""
        with self._queue:
            kind = self._waiting[0].kind
            batch = [ticket for ticket in self._waiting if ticket.kind == kind][:BATCH]
            self._waiting = [ticket for ticket in self._waiting if ticket not in batch]
        try:
            self._run(kind, batch)
        except BaseException as error:
            for ticket in batch:  # other threads wait for them
                if ticket.result is None:
                    ticket.result = error
            raise

    def _run(self, kind: Kind, batch: Sequence["_Ticket"]) -> None:
        jobs = [ticket.job for ticket in batch if ticket.job is not None]
        graph = self._graph(kind)
        try:
            results = graph.run(jobs)
        except RuntimeError as error:
            del self._graphs[kind]  # an error leaves a pipeline that must not be used again
            reason = _reason(error)
            if len(batch) == 1:
                batch[0].result = self._failed(batch[0], reason)
                return
            for ticket in batch:  # the error does not say which clip it is of
                self._run(kind, [ticket])
            return
        for ticket, decoded in zip(batch, results, strict=True):
            ticket.take(decoded)

    def _failed(self, ticket: "_Ticket", reason: str) -> ValueError:
        if _NO_CODEC not in reason or ticket.job is None:
            return judged(ticket.request, self.name, reason)
        codec = ticket.job.video.codec
        self._unsupported[codec] = f"this GPU does not decode {codec}"
        return Unservable(self._unsupported[codec])

    def _graph(self, kind: Kind) -> Graph:
        if kind not in self._graphs:
            _used.add(os.getpid())
            self._graphs[kind] = Graph(self.device, kind)
        return self._graphs[kind]


class _Ticket:
    """A request, the job that the graph gets of it, and its result: frames or an error; None while it waits."""

    def __init__(self, request: Request, normalised: bool) -> None:
        self.request, self.normalised = request, normalised
        self.kind = Kind(request.size is not None, normalised, False)
        self.job: Job | None = None
        self.result: Any = None

    def prepare(self, decoder: DaliDecoder) -> None:
        """Reads the headers; what is wrong with them is the result."""
        request = self.request
        try:
            video = probe(request.data, request.stored)
            request.picked(video.times)
            if (reason := decoder.refusal(video)) is not None:
                raise Unservable(reason)
            turn = orientation.of_file(request.data)
            shown = turn.size(video.stored)
            if request.stored is not None and shown != request.stored:
                raise ValueError(other_size(shown, request.stored))
            request.check_bytes(shown)
            self.kind = self.kind._replace(bt709=video.matrix == _BT709)
            self.job = Job(request, video, turn)
        except ValueError as error:
            self.result = error

    def take(self, decoded: Decoded) -> None:
        """Sets the frames as the result if they are as many and as large as requested, and their colours right."""
        assert self.job is not None
        request, frames = self.request, decoded.frames
        height, width = self.job.turn.size(self.job.video.stored) if request.size is None else request.size
        count = request.count
        expected = (3, count, height, width) if self.normalised else (count, height, width, 3)
        if decoded.suspect > MOST_SUSPECT:
            share = f"{100 * decoded.suspect:.2g} % of the pixels"
            self.result = Unservable(f"DALI cuts off saturated colours of BT.709, up to {share} of this clip")
        elif tuple(frames.shape) == expected:
            self.result = frames
        else:
            what = f"it returned {list(frames.shape)}, expected {list(expected)}"
            self.result = judged(request, DaliDecoder.name, what)

    def answer(self) -> Frames | ValueError:
        """The result; raises an error that is not of the clip."""
        if isinstance(self.result, BaseException) and not isinstance(self.result, ValueError):
            raise self.result
        return self.result


def _version() -> str:
    for name in ("nvidia-dali-cuda130", "nvidia-dali-cuda120"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def _reason(error: RuntimeError) -> str:
    """The line of DALI's report that says what failed."""
    text = str(error)
    if "out of memory" in text.lower() or "bad_alloc" in text:
        raise MemoryError("DALI: out of memory while decoding") from error
    lines = [line.strip() for line in text.partition("encountered:")[2].splitlines() if line.strip()]
    return (lines or text.splitlines() or ["it failed"])[0]
