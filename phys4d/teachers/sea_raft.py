"""Optical flow of SEA-RAFT (ECCV 2024, arXiv 2405.14793) from a local file of its published weights."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from phys4d.engine.config import Config
from phys4d.teachers.both_ways import confirmed, no_flow
from phys4d.teachers.interface import TeacherSpec, default_device
from phys4d.teachers.pairs import SMALLEST, enlargement, over_pairs
from phys4d.teachers.sea_raft_network import SEARAFT
from phys4d.teachers.weight_files import SAFETENSORS, check_file, fill, read_tensors, sha256

_FILES = "a file that its authors publish, such as the model.safetensors of Tartan-C-T-TSKH-spring540x960-M"
_OF_RESNET34 = "fnet.layer3.5."
_ALIASES = (".bn3.", ".downsample.1.")  # of one tensor: a .pth file has both, a safetensors file either


class SEARAFTConfig(Config):
    """weights: the file, .safetensors; it decides between ResNet-18 and ResNet-34. batch: pairs of frames that the
    network takes at once; fewer need less memory. updates: of the flow, one after another: 4 for the small and the
    medium model, 12 for the large one. max_error: pixels of the frames that the network sees; flow of which the network
    itself expects a larger mean error is not valid. It always expects at least 1."""

    weights: Path
    batch: int = Field(4, ge=1)
    updates: int = Field(4, ge=1, le=100)
    max_error: float = Field(3.0, ge=1)


class SEARAFTFlow:
    """SEA-RAFT on torch's accelerator where there is one, in fp32.

    Frames with a side below 128 pixels are enlarged to that, and their flow is reduced afterwards. Valid is what the
    forward-backward check confirms and of which the network itself does not expect a large error. One thread at a time
    uses the network, so memory on the device does not grow with the number of threads.

    config: see `SEARAFTConfig`.

    Raises UserError where the file is absent or has another ending; nothing is downloaded.
    """

    scenes: frozenset[str] = frozenset()
    title = "SEA-RAFT"

    def __init__(self, config: SEARAFTConfig) -> None:
        self.config, self.device = config, default_device()
        check_file(config.weights, SAFETENSORS, "flow.weights", _FILES)
        self._one_thread = threading.Lock()

    def prepare(self) -> None:
        """Loads the weights; UserError where they are damaged or of another model."""
        file = self.config.weights
        weights = read_tensors(file, _FILES)
        for name, tensor in [*weights.items()]:
            for one, other in (_ALIASES, _ALIASES[::-1]):
                if one in name:
                    weights.setdefault(name.replace(one, other), tensor)
        self.features = "resnet34" if any(name.startswith(_OF_RESNET34) for name in weights) else "resnet18"
        self.model = SEARAFT(self.features)
        fill(self.model, weights, file, self.title, _FILES)
        self.model.eval().requires_grad_(False).to(self.device)
        self.digest = sha256(file)

    def provenance(self) -> dict[str, Any]:
        return {
            "name": self.title,
            "features": self.features,
            "file": self.config.weights.name,
            "versions": {"torch": torch.__version__},
            "weights_sha256": self.digest,
            "settings": {**self.config.model_dump(exclude={"weights"}), "enlarged_below": SMALLEST},
            "device": self.device.type,
            "training": "that of the published weights, none of it here",
        }

    def label(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """video uint8 [T, H, W, 3] RGB -> flow float32 [2, T-1, H, W] pixels, valid bool [T-1, H, W]."""
        frames, size = [*video], (video.shape[1], video.shape[2])
        if len(frames) < 2:
            return no_flow(size)
        pairs = (frames[:-1], frames[1:]), (frames[1:], frames[:-1])
        with self._one_thread, torch.no_grad():
            there, back = (over_pairs(self._seen, *pair, self.config.batch, self.device) for pair in pairs)
        flow, valid = confirmed(there[:, :2], back[:, :2], enlargement(size))
        return flow, valid & (there[:, 2] <= self.config.max_error).numpy()

    def _seen(self, first: Tensor, second: Tensor) -> Tensor:
        flow, error = self.model(first, second, self.config.updates)
        return torch.cat((flow, error[:, None]), dim=1)


SPEC = TeacherSpec(SEARAFTConfig, SEARAFTFlow)
