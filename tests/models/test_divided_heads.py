"""Heads whose latent frames are divided over the ranks of a group, here one after the other in one process."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.models.heads import GeometryHeads, HeadConfig, geometry
from phys4d.models.interface import Grid

GRID = Grid(9, 24, 16, (4, 8, 8))


class Ranks:
    """Stands for the process group: which rank computes, of how many, and what each has given to be gathered."""

    def __init__(self, size: int) -> None:
        self.size, self.rank = size, 0
        self.given: list[list[Tensor]] = [[] for _ in range(size)]
        self.taken = 0

    def gathered(self, own: Tensor, parts: Any) -> Tensor:
        """The parts of all ranks one behind the other, once every rank has given its own."""
        assert own.shape[1] == parts.own.stop - parts.own.start
        if len(self.given[-1]) < 2:  # of two heads
            self.given[self.rank].append(own)
            return own[:, :1].expand(-1, parts.count, *own.shape[2:]).contiguous()
        self.taken += 1
        return torch.cat([one[self.taken - 1] for one in self.given], 1)


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Ranks]:
    """Makes a group of so many ranks."""

    def make(size: int) -> Ranks:
        group = Ranks(size)
        monkeypatch.setattr(geometry, "gathered", group.gathered)
        monkeypatch.setattr(geometry.dist, "get_rank", lambda asked: asked.rank)
        monkeypatch.setattr(geometry.dist, "get_world_size", lambda asked: asked.size)
        return group

    return make


@pytest.mark.parametrize(("kind", "size"), [("conv", 2), ("dpt", 3), ("linear", 3)])
def test_every_rank_computes_its_latent_frames_and_has_all_frames(
    kind: Any, size: int, ranks: Callable[[int], Ranks]
) -> None:
    heads = GeometryHeads(HeadConfig(kind=kind, width=8), 16, 2, 5, GRID)
    hidden = (torch.randn(2, 18, 16), torch.randn(2, 18, 16))
    inputs = hidden, torch.randn(2, 5, 3, 6, 4), torch.tensor([0.05, 0.5])
    whole = heads(*inputs)
    heads.group = group = ranks(size)
    for group.rank in range(size):
        heads(*inputs)
    depth, motion = heads(*inputs)
    assert group.taken == 2
    torch.testing.assert_close(depth, whole[0])
    torch.testing.assert_close(motion, whole[1])


def test_more_ranks_than_latent_frames_compute_all_frames_each(ranks: Callable[[int], Ranks]) -> None:
    heads = GeometryHeads(HeadConfig(kind="linear", width=8), 16, 1, 5, GRID)
    inputs = (torch.randn(1, 18, 16),), torch.randn(1, 5, 3, 6, 4), torch.tensor([0.05])
    whole = heads(*inputs)
    heads.group = group = ranks(4)
    depth, motion = heads(*inputs)
    assert torch.equal(depth, whole[0]) and torch.equal(motion, whole[1]) and group.given == [[]] * 4
