"""Optical flow of RAFT (Teed and Deng 2020), large or small, from a local file of torchvision's weights."""

import hashlib
import pickle
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
import torchvision
from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor
from torchvision.models import optical_flow

from phys4d.engine.config import Config
from phys4d.engine.errors import UserError
from phys4d.teachers.both_ways import both_ways
from phys4d.teachers.interface import TeacherSpec, default_device

_STRIDE = 8  # of the features: sides must be multiples of it
_SMALL = 128  # pixels; RAFT takes no frames with a shorter side
_SAFETENSORS, _PICKLED = (".safetensors",), (".pth", ".pt")
_FILES = "a file that torchvision publishes, such as raft_large_C_T_SKHT_V2-ff5fadd5.pth, or its tensors as safetensors"


class RAFTConfig(Config):
    """weights: the file, .pth or .safetensors; it decides between large and small. batch: pairs of frames that the
    network takes at once; fewer need less memory. updates: of the flow, one after another."""

    weights: Path
    batch: int = Field(4, ge=1)
    updates: int = Field(12, ge=1, le=100)


class RAFTFlow:
    """RAFT of torchvision, on torch's accelerator where there is one, in fp32.

    Frames with a side below 128 pixels are enlarged to that, and their flow is reduced afterwards. One thread at a time
    uses the network, so memory on the device does not grow with the number of threads.

    config: see `RAFTConfig`.

    Raises UserError where the file is absent or has another ending; nothing is downloaded.
    """

    scenes: frozenset[str] = frozenset()
    title = "RAFT"

    def __init__(self, config: RAFTConfig) -> None:
        self.config, self.device = config, default_device()
        if config.weights.suffix not in (*_SAFETENSORS, *_PICKLED):
            raise UserError(f"{config.weights}: flow.weights names a .pth or .safetensors file: {_FILES}")
        if not config.weights.is_file():
            raise UserError(f"{config.weights}: no such file: put there {_FILES}")
        self._one_thread = threading.Lock()

    def prepare(self) -> None:
        """Loads the weights; UserError where they are damaged or of another model."""
        file = self.config.weights
        weights = _tensors(file)
        self.kind = "large" if any(name.startswith("mask_predictor.") for name in weights) else "small"
        network = optical_flow.raft_large if self.kind == "large" else optical_flow.raft_small
        self.model = network(weights=None, progress=False)
        try:
            self.model.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{file}: holds no weights of RAFT ({reason}): take {_FILES}") from None
        self.model.eval().requires_grad_(False).to(self.device)
        with open(file, "rb") as opened:
            self.digest = hashlib.file_digest(opened, "sha256").hexdigest()

    def provenance(self) -> dict[str, Any]:
        return {
            "name": self.title,
            "kind": self.kind,
            "file": self.config.weights.name,
            "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
            "weights_sha256": self.digest,
            "settings": {**self.config.model_dump(exclude={"weights"}), "enlarged_below": _SMALL},
            "device": self.device.type,
            "training": "that of the published weights, none of it here",
        }

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """video uint8 [T, H, W, 3] RGB -> flow float32 [2, T-1, H, W] pixels, valid bool [T-1, H, W]."""
        size = video.shape[1:3]
        scale = max(1.0, _SMALL / min(size))
        inner = [max(_SMALL, round(side * scale)) if scale > 1 else side for side in size]

        def between(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
            parts = []
            for start in range(0, len(first), self.config.batch):
                batch = slice(start, start + self.config.batch)
                pair = (self._prepared(np.stack(frames[batch]), inner) for frames in (first, second))
                flow = self.model(*pair, num_flow_updates=self.config.updates)[-1][..., : inner[0], : inner[1]]
                if inner != [*size]:
                    flow = F.interpolate(flow, size, mode="bilinear", align_corners=False, antialias=True)
                    flow = flow * flow.new_tensor([size[1] / inner[1], size[0] / inner[0]]).view(1, 2, 1, 1)
                parts.append(flow.cpu())
            return torch.cat(parts).numpy()

        with self._one_thread, torch.no_grad():
            return both_ways([*video], size, between, scale)

    def _prepared(self, frames: np.ndarray, size: Sequence[int]) -> Tensor:
        """uint8 [N, H, W, 3] -> float32 [N, 3, H', W'] in [-1, 1], of `size` and padded to a multiple of the stride."""
        rgb = torch.from_numpy(frames).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        if [*rgb.shape[2:]] != [*size]:
            rgb = F.interpolate(rgb, size, mode="bilinear", align_corners=False)
        return F.pad(rgb, (0, -size[1] % _STRIDE, 0, -size[0] % _STRIDE), mode="replicate")


def _tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU; of a pickled one nothing but tensors is unpickled."""
    try:
        if file.suffix in _SAFETENSORS:
            return safetensors.torch.load_file(file)
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{file}: does not load ({reason}): download it again") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise UserError(f"{file}: holds more than tensors by name: take {_FILES}")
    return tensors


SPEC = TeacherSpec(RAFTConfig, RAFTFlow)
