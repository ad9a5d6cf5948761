"""A torchvision whose RAFT finds whole translations of a picture, since none fits torch for CPUs."""

import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn


class Matching(nn.Module):
    """Finds the whole translation of at most 6 pixels between two batches of pictures."""

    def __init__(self, large: bool) -> None:
        super().__init__()
        self.bias, self.calls = nn.Parameter(torch.ones(2)), []
        if large:
            self.mask_predictor = nn.Module()
            self.mask_predictor.x = nn.Parameter(torch.ones(1))

    def forward(self, first: Tensor, second: Tensor, num_flow_updates: int) -> list[Tensor]:
        assert first.shape == second.shape and first.dtype == torch.float32 and first.abs().max() <= 1
        assert all(side % 8 == 0 and side >= 128 for side in first.shape[2:])
        self.calls.append((tuple(first.shape), num_flow_updates))
        flow = torch.empty(len(first), 2, *first.shape[2:])
        shifts = [(u, v) for u in range(-6, 7) for v in range(-6, 7)]
        for one, two, found in zip(first, second, flow, strict=True):
            inner = np.s_[:, 8:-8, 8:-8]
            off = [(one.roll((v, u), (1, 2)) - two)[inner].abs().mean() for u, v in shifts]
            found[:] = self.bias[:, None, None] + torch.tensor(shifts[int(torch.stack(off).argmin())])[:, None, None]
        return [torch.full_like(flow, torch.nan), flow]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module torchvision with both networks."""
    top, models, flow = (ModuleType(f"torchvision{rest}") for rest in ("", ".models", ".models.optical_flow"))
    top.__version__ = "0.0"  # type: ignore[attr-defined]
    top.models, models.optical_flow = models, flow  # type: ignore[attr-defined]
    for name, large in (("raft_large", True), ("raft_small", False)):
        setattr(flow, name, lambda weights, progress, large=large: Matching(large))
    for module in (top, models, flow):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    yield
    sys.modules.pop("phys4d.teachers.raft", None)
