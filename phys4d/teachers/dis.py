"""Optical flow without weights: OpenCV's DIS (Kroeger et al. 2016), with a forward-backward check."""

import threading
from collections.abc import Sequence
from typing import Any, Literal

import cv2
import numpy as np

from phys4d.engine.config import Config
from phys4d.teachers.both_ways import both_ways
from phys4d.teachers.interface import TeacherSpec

_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
_SMALL = 128  # pixels; DIS finds little in frames with a shorter side, since its patches are eight pixels wide
_ENLARGE = 2


class DISConfig(Config):
    """preset: OpenCV's choice between speed and accuracy."""

    preset: Literal["ultrafast", "fast", "medium"] = "medium"


class DISFlow:
    """Dense inverse search, refined at the full resolution.

    Frames with a side below 128 pixels are enlarged twice first, and their flow is reduced afterwards. The
    forward-backward check accepts an error of half a squared pixel of the frames on which DIS works.
    """

    scenes: frozenset[str] = frozenset()
    title = "DIS"

    def __init__(self, config: DISConfig | None = None) -> None:
        self.config = config or DISConfig()
        self._thread = threading.local()

    def prepare(self) -> None:
        """Nothing to train or load."""

    def provenance(self) -> dict[str, Any]:
        settings = {**self.config.model_dump(), "finest_scale": 0, "enlarged_below": _SMALL}
        return {"name": self.title, "versions": {"opencv": cv2.__version__}, "settings": settings, "training": "none"}

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """video uint8 [T, H, W, 3] RGB -> flow float32 [2, T-1, H, W] pixels, valid bool [T-1, H, W]."""
        frames, size = [_grey(frame) for frame in video], video.shape[1:3]
        scale = frames[0].shape[0] / size[0]

        def between(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
            return np.stack([self._flow(*pair, size) for pair in zip(first, second, strict=True)])

        return both_ways(frames, size, between, scale)

    def _flow(self, first: np.ndarray, second: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        if not hasattr(self._thread, "dis"):  # one object per thread: OpenCV's object keeps buffers between calls
            self._thread.dis = cv2.DISOpticalFlow.create(_PRESETS[self.config.preset])
            self._thread.dis.setFinestScale(0)
        flow = self._thread.dis.calc(first, second, None)
        scale = first.shape[0] / size[0]
        if scale != 1:
            flow = cv2.resize(flow, (size[1], size[0]), interpolation=cv2.INTER_AREA) / scale
        return np.ascontiguousarray(flow.transpose(2, 0, 1), dtype=np.float32)


def _grey(frame: np.ndarray) -> np.ndarray:
    # DIS ignores strides, so every array that it gets must be contiguous.
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    if min(grey.shape) < _SMALL:
        grey = cv2.resize(grey, None, fx=_ENLARGE, fy=_ENLARGE, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(grey)


SPEC = TeacherSpec(DISConfig, DISFlow)
