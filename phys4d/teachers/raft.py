"""Optical flow of RAFT (Teed and Deng 2020), large or small, from a local file of torchvision's weights."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from pydantic import Field
from torch import Tensor
from torchvision.models import optical_flow

from phys4d.engine.config import Config
from phys4d.teachers.both_ways import both_ways
from phys4d.teachers.interface import TeacherSpec, default_device
from phys4d.teachers.pairs import SMALLEST, enlargement, over_pairs
from phys4d.teachers.weight_files import PICKLED, SAFETENSORS, check_file, fill, read_tensors, sha256

_STRIDE = 8  # of the features: sides must be multiples of it
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
        check_file(config.weights, (*PICKLED, *SAFETENSORS), "flow.weights", _FILES)
        self._one_thread = threading.Lock()

    def prepare(self) -> None:
        """Loads the weights; UserError where they are damaged or of another model."""
        file = self.config.weights
        weights = read_tensors(file, _FILES)
        self.kind = "large" if any(name.startswith("mask_predictor.") for name in weights) else "small"
        network = optical_flow.raft_large if self.kind == "large" else optical_flow.raft_small
        self.model = network(weights=None, progress=False)
        fill(self.model, weights, file, self.title, _FILES)
        self.model.eval().requires_grad_(False).to(self.device)
        self.digest = sha256(file)

    def provenance(self) -> dict[str, Any]:
        return {
            "name": self.title,
            "kind": self.kind,
            "file": self.config.weights.name,
            "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
            "weights_sha256": self.digest,
            "settings": {**self.config.model_dump(exclude={"weights"}), "enlarged_below": SMALLEST},
            "device": self.device.type,
            "training": "that of the published weights, none of it here",
        }

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """video uint8 [T, H, W, 3] RGB -> flow float32 [2, T-1, H, W] pixels, valid bool [T-1, H, W]."""

        def between(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
            return over_pairs(self._flow, first, second, self.config.batch, self.device).numpy()

        size = (video.shape[1], video.shape[2])
        with self._one_thread, torch.no_grad():
            return both_ways([*video], size, between, enlargement(size))

    def _flow(self, first: Tensor, second: Tensor) -> Tensor:
        rows, columns = first.shape[2:]
        sides = (0, -columns % _STRIDE, 0, -rows % _STRIDE)
        padded = (F.pad(frames, sides, mode="replicate") for frames in (first, second))
        return self.model(*padded, num_flow_updates=self.config.updates)[-1][..., :rows, :columns]


SPEC = TeacherSpec(RAFTConfig, RAFTFlow)
