"""Decoding on the CPU by torchcodec."""

import os
from collections.abc import Sequence
from importlib import metadata

import numpy as np

from phys4d.engine.data.decoders import orientation, pixels
from phys4d.engine.data.decoders.interface import Frames, Request, Unservable
from phys4d.engine.data.decoders.judging import judged
from phys4d.engine.data.decoders.probe import SIGNED, Video, other_size, probe


class TorchcodecDecoder:
    """Decodes by index in exact mode, with one thread for each clip, on the FFmpeg libraries of the system.

    It serves colours of limited range, since torchcodec takes every video for that; no mirrored video, which it shows
    unmirrored; and no edit list that hides frames.
    """

    name = "torchcodec"

    def __init__(self) -> None:
        self.version = metadata.version("torchcodec")

    @property
    def together(self) -> int:
        """Clips that are best decoded at the same time: one for each core of this process, 2 to 8."""
        return max(2, min(8, len(os.sched_getaffinity(0))))

    def refusal(self, video: Video) -> str | None:
        """Why torchcodec does not show a video as a player does."""
        if video.container not in SIGNED:
            return f"torchcodec is given mp4, mov, webm and mkv only, it is {video.container}"
        if video.full_range:
            return "torchcodec takes colours of limited range, its are of full range"
        if video.hidden:
            return f"its edit list hides {video.hidden} frames, which torchcodec would show"
        return None

    def decode_many(self, requests: Sequence[Request], *, normalised: bool = False) -> list[Frames | ValueError]:
        """See `VideoDecoder`; the requests are decoded in turn, by the calling thread."""
        done: list[Frames | ValueError] = []
        for request in requests:
            try:
                frames = self._decode(request)
                done.append(pixels.normalised(frames) if normalised else frames)
            except ValueError as error:
                done.append(error)
        return done

    def _decode(self, request: Request) -> np.ndarray:
        from torchcodec.decoders import VideoDecoder as Decoder

        video = probe(request.data, request.stored)
        request.picked(video.times)
        if (reason := self.refusal(video)) is not None:
            raise Unservable(reason)
        turn = orientation.of_file(request.data)
        if turn.mirrored:
            raise Unservable("it is mirrored, which torchcodec does not show")
        shown = turn.size(video.stored)
        if request.stored is not None and shown != request.stored:
            raise ValueError(other_size(shown, request.stored))
        request.check_bytes(shown)
        last = request.start + (request.count - 1) * request.stride
        try:
            decoder = Decoder(request.data, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
            found = len(decoder)
            picked = decoder.get_frames_in_range(request.start, last + 1, request.stride).data.numpy()
        except (RuntimeError, ValueError, IndexError) as error:
            raise judged(request, self.name, str(error).strip().splitlines()[0]) from None
        if found != len(video.times) or picked.shape != (request.count, *shown, 3):
            what = f"it returned {list(picked.shape)} of {found} frames"
            raise judged(request, self.name, what)
        return picked if request.size is None else pixels.resized(picked, request.size)
