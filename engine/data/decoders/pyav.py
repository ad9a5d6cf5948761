"""Decoding on the CPU with FFmpeg through PyAV: the reference for every other decoder."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from phys4d.engine.data.decoders import orientation, pixels
from phys4d.engine.data.decoders.interface import Frames, Request
from phys4d.engine.data.decoders.probe import (
    Size,
    Video,
    check_count,
    ffmpeg_errors,
    is_shown,
    limit_frames,
    opened,
    other_size,
    shown_time,
    video_stream,
)


class PyAVDecoder:
    """Decodes every codec that FFmpeg knows, frame-exact by the packets' timestamps, with one thread for each clip.

    The frames are those that a player shows: edit lists and the display matrix (rotation, mirroring) are applied.
        Colours are converted by FFmpeg (swscale), by the matrix and range that the file states. Non-square pixels,
        rotations by other than multiples of 90 degrees, and HDR are refused.
    """

    name = "pyav"
    version = av.__version__

    @property
    def together(self) -> int:
        """Clips that are best decoded at the same time: one for each core of this process, 2 to 8."""
        return max(2, min(8, len(os.sched_getaffinity(0))))

    def refusal(self, video: Video) -> str | None:
        """None: it decodes what FFmpeg decodes."""
        return None

    def decode_many(self, requests: Sequence[Request], *, normalised: bool = False) -> list[Frames | ValueError]:
        """See `VideoDecoder`; the requests are decoded in turn, by the calling thread."""
        done: list[Frames | ValueError] = []
        for request in requests:
            try:
                frames = self.decode(
                    request.data, request.start, request.count, request.stored, stride=request.stride, size=request.size
                )
                done.append(pixels.normalised(frames) if normalised else frames)
            except ValueError as error:
                done.append(error)
        return done

    def decode(
        self,
        data: bytes,
        start: int,
        count: int,
        stored: Size | None = None,
        *,
        stride: int = 1,
        size: Size | None = None,
    ) -> np.ndarray:
        """Frames start, start + stride, ... as RGB uint8 [count, H, W, 3]; arguments as in `Request`.

        Raises ValueError if the data is not a video, has fewer frames or another size, is damaged, exceeds a limit
        (`engine.limits`) or cannot be shown as stored; MemoryError if the machine lacks memory.
        """
        request = Request(data, count, start, stride, stored, size)
        with ffmpeg_errors(), opened(data) as container:
            stream = video_stream(container, stored)
            packets, times = _demuxed(container.demux(stream))
            wanted = request.picked(times)
            limit_frames(stream, stored)
            first = _entry(packets, wanted[0])
            frames = _Picked(request, wanted)
            frames.read(packets[first:])
        if first and frames.found < count:  # after a key frame that does not decode alone
            with ffmpeg_errors(), opened(data) as container:
                stream = video_stream(container, stored)
                limit_frames(stream, stored)
                frames = _Picked(request, wanted)
                frames.read(container.demux(stream))
        whole = frames.whole()
        return whole if size is None else pixels.resized(whole, size)


class _Picked:
    """The wanted frames, as they are decoded.

    request: what is asked for. wanted: the presentation times of these frames, ascending.
    """

    def __init__(self, request: Request, wanted: list[int]) -> None:
        self.request, self.wanted, self.found = request, wanted, 0
        self._times = frozenset(wanted)
        self._convert, self._flags = VideoReformatter(), Interpolation.BILINEAR
        self._turn, self._rotation = orientation.STORED, 0
        self._frames = np.empty((0, 0, 0, 3), np.uint8)

    def read(self, packets: Iterable[av.Packet]) -> None:
        """Decodes packets until the last wanted frame is there."""
        for packet in packets:
            for frame in packet.decode():
                assert isinstance(frame, av.VideoFrame)
                if frame.pts in self._times and self.found < len(self.wanted):
                    self._take(frame)
            if self.found == len(self.wanted):
                return

    def whole(self) -> np.ndarray:
        """All wanted frames. Raises ValueError if some are missing or have another size than the index says."""
        count = len(self.wanted)
        if self.found != count:
            raise ValueError(f"only {self.found} of {count} frames could be decoded from frame {self.request.start} on")
        return self._frames

    def _take(self, frame: av.VideoFrame) -> None:
        if frame.is_corrupt:
            raise ValueError(f"is damaged in the frame shown at {frame.pts} (in units of its time base)")
        if not self.found:
            self._begin(frame)
        if frame.rotation != self._rotation:
            raise ValueError("changes its orientation between frames: encode it again with one")
        # One thread: what a frame has of swscale's threads cannot be freed in a forked process, which has none.
        rgb = self._convert.reformat(frame, format="rgb24", interpolation=self._flags, threads=1)
        plane: Any = rgb.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(rgb.height, plane.line_size)  # longer than a row of pixels
        shown = self._turn.apply(rows[:, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3))
        if shown.shape != self._frames.shape[1:]:
            raise ValueError("changes its size between frames: encode it again with one")
        self._frames[self.found] = shown
        self.found += 1

    def _begin(self, frame: av.VideoFrame) -> None:
        """Reads the orientation from the first frame only: reading it keeps a frame in memory until it is collected."""
        self._turn = orientation.of_frame(frame)
        self._rotation = frame.rotation
        if max(component.bits for component in frame.format.components) > 8:
            self._flags |= Interpolation.FULL_CHR_H_INT  # without it, all channels are up to 3 levels too dark
        size = self._turn.size((frame.height, frame.width))
        if self.request.stored is not None and size != self.request.stored:
            raise ValueError(other_size(size, self.request.stored))
        self.request.check_bytes(size)
        self._frames = np.empty((len(self.wanted), *size, 3), np.uint8)


def _demuxed(demuxed: Iterable[av.Packet]) -> tuple[list[av.Packet], list[int]]:
    """The packets of a stream, and the times of the shown frames, ascending."""
    packets: list[av.Packet] = []
    times: list[int] = []
    for packet in demuxed:
        packets.append(packet)
        if is_shown(packet):
            times.append(shown_time(packet))
            check_count(times)
    return packets, sorted(times)


def _entry(packets: Sequence[av.Packet], time: int) -> int:
    """Position of the last key frame, in the order of decoding, that is shown at `time` or before."""
    keys = (at for at, packet in enumerate(packets) if packet.is_keyframe and packet.pts is not None)
    return max((at for at in keys if (packets[at].pts or 0) <= time), default=0)
