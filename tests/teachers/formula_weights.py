"""Weights and videos by a formula: other code was given the same ones, and the tests hold what it made of them."""

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def formula_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the shapes of these tensors; whole numbers and constant tables (`.pe`) stay."""
    made: dict[str, Tensor] = {}
    drawn: dict[str, Tensor] = {}
    for name, tensor in sorted(tensors.items()):
        stored = name.replace(".downsample.1.", ".bn3.")  # SEA-RAFT has two names for one tensor
        if name.endswith(".pe") or not tensor.is_floating_point():
            made[name] = tensor
            continue
        if stored not in drawn:
            drawn[stored] = _drawn(len(drawn), name, tensor.shape)
        made[name] = drawn[stored]
    return made


def _drawn(seed: int, name: str, shape: torch.Size) -> Tensor:
    values = torch.from_numpy(np.random.default_rng(seed).random([*shape], dtype=np.float32)) - 0.5
    if len(shape) > 1:
        return values * (12 / values[0].numel()) ** 0.5
    positive = name.endswith(("gamma", "running_var")) or (("norm" in name or "bn" in name) and name.endswith("weight"))
    return values * 0.5 + (1.0 if positive or ".downsample.1.weight" in name else 0.0)


def waves(frames: int, height: int, width: int) -> np.ndarray:
    """uint8 [frames, height, width, 3]: waves of three colours that move."""
    t, v, u = np.mgrid[:frames, :height, :width].astype(np.float64)
    angles = 0.31 * u + 0.17 * v + 0.23 * t, 0.13 * u - 0.29 * v + 0.11 * t, 0.05 * u * v - 0.37 * t + np.pi / 2
    return (127.5 + 110 * np.sin(np.stack(angles, -1))).astype(np.uint8)


def layout(tensors: Mapping[str, Tensor]) -> str:
    """A hash of the names and shapes of all tensors."""
    lines = [f"{name} {[*tensor.shape]}" for name, tensor in sorted(tensors.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
