"""Depth Anything (V1, V2, relative or metric head) from a local folder of weights, through transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from phys4d.engine.errors import UserError
from phys4d.teachers.interface import DepthKind

_NEEDED = ("config.json", "preprocessor_config.json", "model.safetensors")


class DepthAnything:
    """Labels each frame by itself, without temporal smoothing.

    folder: a model folder in the transformers layout, such as
        depth-anything/Depth-Anything-V2-Metric-Indoor-*.
    device: where it runs. batch: frames at once. Raises UserError when the folder or transformers is absent,
    or holds another kind of model; nothing is ever downloaded.
    """

    scenes: frozenset[str] = frozenset()

    def __init__(self, folder: Path, *, device: str = "cpu", batch: int = 4) -> None:
        hint = f"put {', '.join(_NEEDED)} of a Depth Anything model in the transformers layout there"
        if missing := [name for name in _NEEDED if not (folder / name).is_file()]:
            raise UserError(f"{folder}: no {', '.join(missing)} in the folder of the depth teacher: {hint}")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config.get("model_type") != "depth_anything":
            raise UserError(f"{folder}/config.json: model_type is {config.get('model_type')!r}: {hint}")
        try:
            from transformers import DepthAnythingForDepthEstimation
        except ImportError:
            raise UserError("Depth Anything needs transformers: pip install 'phys4d[teachers]'") from None
        self.folder, self.device, self.batch = folder, device, batch
        self.model = DepthAnythingForDepthEstimation.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
        self.model.eval().requires_grad_(False).to(device)
        self.preprocessing = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))

    @property
    def depth_kind(self) -> DepthKind:
        """ "metric" (metres) for the metric head, else "affine_disparity"."""
        return "metric" if self.model.config.depth_estimation_type == "metric" else "affine_disparity"

    def provenance(self) -> dict[str, Any]:
        training = "that of the published weights: not ours"
        return {"name": "Depth Anything", "folder": self.folder.name, "training": training}

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """video uint8 [T, H, W, 3] RGB -> [T, H, W] float32, metres or disparity by `depth_kind`, and valid
        bool [T, H, W]: finite and above 0."""
        parts = []
        with torch.no_grad():
            for frames in torch.from_numpy(video).split(self.batch):
                predicted = self.model(pixel_values=self._prepared(frames.to(self.device))).predicted_depth
                size = (video.shape[1], video.shape[2])
                resized = F.interpolate(predicted[:, None], size, mode="bilinear", align_corners=False)
                parts.append(resized[:, 0].cpu())
        depth = torch.cat(parts)
        valid = depth.isfinite() & (depth > 0)
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
