"""Optical flow without weights: OpenCV's DIS (Kroeger et al. 2016), with a forward-backward check."""

import threading
from itertools import pairwise
from typing import Any, Literal

import cv2
import numpy as np
import torch

from phys4d.engine.config import Config
from phys4d.kernels.geometry import forward_backward_mask
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
        return {"name": self.title, "opencv": cv2.__version__, "settings": settings, "training": "none"}

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """video uint8 [T, H, W, 3] RGB -> flow float32 [2, T-1, H, W] pixels, valid bool [T-1, H, W]."""
        frames = [_grey(frame) for frame in video]
        pairs = list(pairwise(frames))
        size = video.shape[1:3]
        if not pairs:
            return np.zeros((2, 0, *size), np.float32), np.zeros((0, *size), bool)
        forward = np.stack([self._flow(first, second, size) for first, second in pairs])
        backward = np.stack([self._flow(second, first, size) for first, second in pairs])
        scale = frames[0].shape[0] / size[0]
        accepted = 0.5 / scale**2
        valid = forward_backward_mask(torch.from_numpy(forward), torch.from_numpy(backward), absolute=accepted)
        return np.ascontiguousarray(forward.transpose(1, 0, 2, 3)), valid.numpy()

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
