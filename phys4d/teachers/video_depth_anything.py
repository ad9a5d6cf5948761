"""Video Depth Anything (small, base, large; relative or metric) from a local folder of weights."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from phys4d.engine.config import Config
from phys4d.engine.errors import UserError
from phys4d.teachers.depth_windows import joined, windows
from phys4d.teachers.dinov2 import PATCH
from phys4d.teachers.interface import DepthKind, TeacherSpec, default_device
from phys4d.teachers.temporal_dpt import SIZES, VideoDepthNetwork
from phys4d.teachers.weight_files import PICKLED, conversion, fill, read_tensors, sha256

_METRIC = "metric_"
_FILES = {f"{kind}video_depth_anything_{size}": (kind, size) for kind in ("", _METRIC) for size in SIZES}
_EXPECTED = f"one of {', '.join(_FILES)}, each with the ending .safetensors"
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_WIDEST, _WIDE = 1.78, 1.777  # width over height, above which frames are reduced, and the ratio to which


class VideoDepthAnythingConfig(Config):
    """batch: frames that the parts of the network take at once which look at single frames; fewer need less memory.
    resolution: pixels of the shorter side of the frames that the network sees, a multiple of 14; the published weights
    are trained with 518."""

    batch: int = Field(4, ge=1)
    resolution: int = Field(518, ge=PATCH, multiple_of=PATCH)


class VideoDepthAnything:
    """Depth that is steady along a clip: the network sees windows of 32 frames, in fp32, on torch's accelerator where
    there is one.

    One thread at a time uses the network, so memory on the device does not grow with the number of threads.

    config: see `VideoDepthAnythingConfig`. weights: a folder with one published file as safetensors. Its name says
    whether it gives metres, since the tensors of both kinds have the same names and shapes.

    Raises UserError where the folder holds no such file, or several; nothing is downloaded.
    """

    scenes: frozenset[str] = frozenset()
    title = "Video Depth Anything"

    def __init__(self, config: VideoDepthAnythingConfig, weights: Path) -> None:
        self.config, self.device, self.file = config, default_device(), _file(weights)
        kind, self.size = _FILES[self.file.stem]
        self.depth_kind: DepthKind = "metric" if kind == _METRIC else "affine_disparity"
        self._one_thread = threading.Lock()

    def prepare(self) -> None:
        """Loads the weights; UserError where they are damaged or of another model."""
        with torch.device("meta"):
            self.model = VideoDepthNetwork(SIZES[self.size])
        self.model.to_empty(device="cpu")
        expected = f"the {self.file.stem}.pth that its authors publish, made safetensors"
        title = f"{self.title} of size {self.size}"
        fill(self.model, read_tensors(self.file, expected), self.file, title, expected)
        self.model.eval().requires_grad_(False).to(self.device)
        self.digest = sha256(self.file)

    def provenance(self) -> dict[str, Any]:
        return {
            "name": self.title,
            "file": self.file.name,
            "kind": self.depth_kind,
            "versions": {"torch": torch.__version__, "opencv": cv2.__version__},
            "weights_sha256": self.digest,
            "settings": self.config.model_dump(),
            "device": self.device.type,
            "training": "that of the published weights, none of it here",
        }

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """video uint8 [T, H, W, 3] RGB -> [T, H, W] float32, metres or disparity by `depth_kind`, and valid
        bool [T, H, W]: finite and above 0."""
        with self._one_thread, torch.no_grad():
            depth = joined(self._windows(video), len(video), aligned=self.depth_kind == "affine_disparity")
        valid = np.isfinite(depth) & (depth > 0)
        return np.where(valid, depth, np.float32(0)), valid

    def _windows(self, video: np.ndarray) -> Iterator[np.ndarray]:
        size = (video.shape[1], video.shape[2])
        for numbers in windows(len(video)):
            seen = {number: self._prepared(video[number]) for number in sorted({*numbers})}
            frames = torch.stack([seen[number] for number in numbers]).to(self.device)
            depth = self.model(frames, self.config.batch)[:, None]
            yield F.interpolate(depth, size, mode="bilinear", align_corners=True)[:, 0].cpu().numpy()

    def _prepared(self, frame: np.ndarray) -> Tensor:
        """uint8 [H, W, 3] -> float32 [3, H', W'], resized by OpenCV, as the published code does, and normalised."""
        rows, columns = resized(frame.shape[0], frame.shape[1], self.config.resolution)
        rgb = cv2.resize(frame.astype(np.float32) / 255.0, (columns, rows), interpolation=cv2.INTER_CUBIC)
        normalised = ((rgb - np.array(_MEAN)) / np.array(_DEVIATION)).astype(np.float32)
        return torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1)))


def resized(height: int, width: int, resolution: int) -> tuple[int, int]:
    """Height and width that the network sees: the shorter side at least `resolution`, both multiples of 14.

    Frames wider than 16:9 get a smaller one, so that they need no more memory.
    """
    ratio = max(height, width) / min(height, width)
    if ratio > _WIDEST:
        resolution = max(1, round(int(resolution * _WIDE / ratio) / PATCH)) * PATCH
    scale = max(resolution / height, resolution / width)
    rows, columns = (round(scale * side / PATCH) * PATCH for side in (height, width))
    return rows, columns


def _file(folder: Path) -> Path:
    found = [folder / f"{stem}.safetensors" for stem in _FILES]
    found = [file for file in found if file.is_file()]
    if len(found) > 1:
        raise UserError(f"{folder}: holds {found[0].name} and {found[1].name}: put each in a folder of its own")
    if found:
        return found[0]
    for file in (folder / f"{stem}{ending}" for stem in _FILES for ending in PICKLED):
        if file.is_file():
            raise UserError(f"{file}: is no safetensors file: convert it: {conversion(file)}")
    raise UserError(f"{folder}: no weights of Video Depth Anything in the folder: put there {_EXPECTED}")


SPEC = TeacherSpec(VideoDepthAnythingConfig, VideoDepthAnything, needs=("weights",))
