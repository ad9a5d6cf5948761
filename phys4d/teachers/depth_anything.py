"""Depth Anything (V1, V2, relative or metric head) from a local folder of weights, through transformers."""

import hashlib
import threading
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from phys4d.engine import json_text
from phys4d.engine.config import Config
from phys4d.engine.data.clip.schema import METRIC
from phys4d.engine.errors import UserError
from phys4d.models.progress_bars import without_progress_bars
from phys4d.teachers.interface import DepthKind, TeacherSpec, default_device

_WEIGHTS = "model.safetensors"
_NEEDED = ("config.json", "preprocessor_config.json", _WEIGHTS)
_PREPROCESSING = ("size", "image_mean", "image_std")


class DepthAnythingConfig(Config):
    """batch: frames that the network takes at once; fewer need less memory."""

    batch: int = Field(4, ge=1)


class DepthAnything:
    """Labels each frame by itself, without temporal smoothing, on torch's accelerator where there is one. A relative
    model's disparity has a scale and a shift of its own in every frame.

    One thread at a time uses the network, so memory on the device does not grow with the number of threads.

    config: how many frames it takes at once. weights: a model folder in the transformers layout, such as
    depth-anything/Depth-Anything-V2-Metric-Indoor-*.
    Raises UserError when the folder or transformers is absent, or the folder holds another kind of model; nothing is
    downloaded.
    """

    scenes: frozenset[str] = frozenset()
    title = "Depth Anything"

    def __init__(self, config: DepthAnythingConfig, weights: Path) -> None:
        hint = f"put {', '.join(_NEEDED)} of a Depth Anything model in the transformers layout there"
        if missing := [name for name in _NEEDED if not (weights / name).is_file()]:
            raise UserError(f"{weights}: no {', '.join(missing)} in the folder of the depth teacher: {hint}")
        self.config, self.folder, self.device = config, weights, default_device()
        self.model_config = _json(weights / "config.json")
        if self.model_config.get("model_type") != "depth_anything":
            raise UserError(f"{weights}/config.json: model_type is {self.model_config.get('model_type')!r}: {hint}")
        self.preprocessing = _json(weights / "preprocessor_config.json")
        if absent := [name for name in _PREPROCESSING if name not in self.preprocessing]:
            raise UserError(f"{weights}/preprocessor_config.json: has no {', '.join(absent)}: {hint}")
        if not {"height", "width"} <= dict(self.preprocessing["size"]).keys():
            raise UserError(f"{weights}/preprocessor_config.json: size has no height and width: {hint}")
        if find_spec("transformers") is None:
            raise UserError("Depth Anything needs transformers: pip install 'phys4d[teachers]'")
        self._one_thread = threading.Lock()

    @property
    def depth_kind(self) -> DepthKind:
        """ "metric" (metres) for the metric head, else "affine_disparity"."""
        return "metric" if self.model_config.get("depth_estimation_type") == "metric" else "affine_disparity"

    def prepare(self) -> None:
        """Loads the weights; UserError where they are damaged or are not those of config.json."""
        from safetensors import SafetensorError
        from transformers import DepthAnythingForDepthEstimation

        file = self.folder / _WEIGHTS
        try:
            with without_progress_bars():
                self.model, loaded = DepthAnythingForDepthEstimation.from_pretrained(
                    self.folder,
                    local_files_only=True,
                    use_safetensors=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                )
        except (SafetensorError, RuntimeError, ValueError) as error:
            raise UserError(f"{file}: does not load ({' '.join(str(error).split())}): download it again") from None
        if absent := sorted(loaded["missing_keys"]):  # transformers would give them random values
            raise UserError(f"{file}: has no {absent[0]} (of {len(absent)}), which config.json asks for")
        self.model.eval().requires_grad_(False).to(self.device)
        with open(file, "rb") as weights:
            self.digest = hashlib.file_digest(weights, "sha256").hexdigest()

    def provenance(self) -> dict[str, Any]:
        head = {name: self.model_config.get(name) for name in ("depth_estimation_type", "max_depth")}
        return {
            "name": self.title,
            "folder": self.folder.name,
            "versions": {"torch": torch.__version__, "transformers": version("transformers")},
            "weights_sha256": self.digest,
            "settings": {**self.config.model_dump(), **head, "preprocessing": self.preprocessing},
            "device": self.device.type,
            "training": "that of the published weights, none of it here",
        }

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """video uint8 [T, H, W, 3] RGB -> [T, H, W] float32, metres or disparity by `depth_kind`, and valid
        bool [T, H, W]: finite, and metres above 0. Disparity 0 is the farthest that the network knows."""
        size, parts = (video.shape[1], video.shape[2]), []
        with self._one_thread, torch.no_grad():
            for frames in torch.from_numpy(video).split(self.config.batch):
                predicted = self.model(pixel_values=self._prepared(frames.to(self.device))).predicted_depth
                resized = F.interpolate(predicted[:, None], size, mode="bilinear", align_corners=False)
                parts.append(resized[:, 0].cpu())
        depth = torch.cat(parts)
        valid = depth.isfinite() & (depth > 0 if self.depth_kind == METRIC else depth >= 0)
        return torch.where(valid, depth, 0).numpy(), valid.numpy()

    def _prepared(self, frames: Tensor) -> Tensor:
        """As transformers' DPTImageProcessor: resized towards the model's size with the aspect kept, each
        side a multiple of the patch, normalised by the folder's mean and deviation."""
        settings = self.preprocessing
        height, width = frames.shape[1:3]
        rows, columns = settings["size"]["height"] / height, settings["size"]["width"] / width
        if settings.get("keep_aspect_ratio", False):
            rows = columns = columns if abs(1 - columns) < abs(1 - rows) else rows
        multiple = settings.get("ensure_multiple_of", 1)
        size = [max(1, round(side * scale / multiple)) * multiple for side, scale in ((height, rows), (width, columns))]
        rgb = frames.permute(0, 3, 1, 2).float() / 255
        rgb = F.interpolate(rgb, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        mean = rgb.new_tensor(settings["image_mean"]).view(1, 3, 1, 1)
        return (rgb - mean) / rgb.new_tensor(settings["image_std"]).view(1, 3, 1, 1)


def _json(file: Path) -> dict[str, Any]:
    try:
        values = json_text.loads(json_text.read(file))
    except ValueError as error:
        raise UserError(f"{file}: {error}: download it again") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: is no JSON object: download it again")
    return values


SPEC = TeacherSpec(DepthAnythingConfig, DepthAnything, needs=("weights",))
