"""The DALI pipeline: encoded clips in, frames out, cut, resized and normalised where they are decoded.

The same graph runs on a GPU (`device="mixed"`) and on the CPU. DALI owns no order and no shard: every run decodes the
clips that it is given (`external_source`), so that there is nothing of it to resume.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from phys4d.engine.data.decoders import colours, pixels
from phys4d.engine.data.decoders.interface import Request
from phys4d.engine.data.decoders.orientation import Turn
from phys4d.engine.data.decoders.probe import Video

BATCH = 8
"""Clips that one run decodes at most; each holds its frames in the device's memory until they are handed over."""
_INT, _FLOAT = np.int32, np.float32


class Kind(NamedTuple):
    """What the clips of a graph have in common.

    resizing: they are cut and resized. normalised: as in `VideoDecoder`. bt709: their colours are BT.709, not BT.601.
    """

    resizing: bool
    normalised: bool
    bt709: bool


class Decoded(NamedTuple):
    """Frames as they are shown, and the share of their pixels whose colours may be cut off (`colours.suspect`)."""

    frames: np.ndarray | torch.Tensor
    suspect: float


@dataclass(frozen=True)
class Job:
    """A request with what its headers say, and how its frames are turned."""

    request: Request
    video: Video
    turn: Turn

    def inputs(self) -> dict[str, np.ndarray]:
        """What the graph needs of this clip, by the name of its input. Sizes are those of the stored pixels, which are
        turned after the graph."""
        request, stored = self.request, self.video.stored
        size = stored if request.size is None else self.turn.size(request.size)
        top, left, bottom, right = pixels.centred(stored, size)
        return {
            "encoded": np.frombuffer(request.data, np.uint8),
            "start": np.array(request.start, _INT),
            "count": np.array(request.count, _INT),
            "stride": np.array(request.stride, _INT),
            "size": np.array(size, _FLOAT),
            "first": np.array((top, left), _FLOAT),
            "last": np.array((bottom, right), _FLOAT),
        }


class Graph:
    """A built pipeline. After an error DALI does not promise that it can be used again: build another one.

    device: "cpu" or that of a GPU. kind: of its clips.
    """

    def __init__(self, device: torch.device, kind: Kind) -> None:
        from nvidia.dali import fn, pipeline_def, types

        self.device = device
        on_gpu = device.type == "cuda"

        @pipeline_def(
            batch_size=BATCH,
            num_threads=max(1, min(BATCH, len(os.sched_getaffinity(0)))),
            device_id=(torch.cuda.current_device() if device.index is None else device.index) if on_gpu else None,
            prefetch_queue_depth=1,
            exec_dynamic=True,
        )
        def graph() -> Any:
            def number(name: str, axes: int, dtype: Any) -> Any:
                return fn.external_source(name=name, ndim=axes, dtype=dtype)

            video = fn.decoders.video(
                number("encoded", 1, types.UINT8),
                device="mixed" if on_gpu else "cpu",
                start_frame=number("start", 0, types.INT32),
                sequence_length=number("count", 0, types.INT32),
                stride=number("stride", 0, types.INT32),
                affine=False,  # several ranks of a machine would pin their threads to the same cores
                pad_mode="none",  # the default fills missing frames with black ones
            )
            if kind.bt709:
                video, suspect = colours.corrected(video, fn, types)
            if kind.resizing:
                sides = {name: number(name, 1, types.FLOAT) for name in ("size", "first", "last")}
                video = fn.resize(
                    video,
                    size=sides["size"],
                    roi_start=sides["first"],
                    roi_end=sides["last"],
                    interp_type=types.INTERP_LINEAR,
                    antialias=True,
                )
            if kind.normalised:
                half = [127.5] * 3
                video = fn.crop_mirror_normalize(video, dtype=types.FLOAT, output_layout="CFHW", mean=half, std=half)
            return (video, suspect) if kind.bt709 else (video,)

        self._names = ["encoded", "start", "count", "stride", *(("size", "first", "last") if kind.resizing else ())]
        self._height_axis = 2 if kind.normalised else 1
        self._pipeline = graph()
        self._pipeline.build()
        self._stream = torch.cuda.Stream(device) if on_gpu else None

    def run(self, jobs: Sequence[Job]) -> list[Decoded]:
        """What at most `BATCH` jobs ask for. Raises RuntimeError if DALI fails on one of them."""
        inputs = [job.inputs() for job in jobs]
        for name in self._names:
            self._pipeline.feed_input(name, [each[name] for each in inputs])
        frames, *suspect = self._pipeline.run()
        shares = np.asarray(suspect[0].as_cpu().as_array()).ravel() if suspect else np.zeros(len(jobs))
        taken = [self._taken(frames[place], job.turn) for place, job in enumerate(jobs)]
        return [Decoded(one, float(share)) for one, share in zip(taken, shares, strict=True)]

    def _taken(self, decoded: Any, turn: Turn) -> np.ndarray | torch.Tensor:
        """A copy that DALI does not own, turned, on the same device."""
        axis = self._height_axis
        if self._stream is None:
            return np.array(_turned(torch.from_numpy(np.asarray(decoded)), turn, axis).numpy(), order="C")
        with torch.cuda.stream(self._stream):
            frames = _turned(torch.from_dlpack(decoded), turn, axis).clone(memory_format=torch.contiguous_format)
        self._stream.synchronize()  # before DALI reuses its memory
        frames.record_stream(torch.cuda.default_stream(self.device))  # where training uses them
        return frames


def _turned(frames: torch.Tensor, turn: Turn, axis: int) -> torch.Tensor:
    """Frames whose heights are along `axis` and widths along the next, as they are shown."""
    if turn.transposed:
        frames = frames.transpose(axis, axis + 1)
    reverse = [axis] * turn.rows_reversed + [axis + 1] * turn.columns_reversed
    return frames.flip(reverse) if reverse else frames
