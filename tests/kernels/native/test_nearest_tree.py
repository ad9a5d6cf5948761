"""The tree search of large clouds gives the bits of the exhaustive one, on clouds of every kind."""

import time

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.geometry.clouds.nearest_native import nearest_native

AVAILABLE, REASON = native.status()
pytestmark = pytest.mark.skipif(not AVAILABLE, reason=REASON)
FEW = 1 << 19  # pairs up to which `nearest` compares all with all


def cloud(kind: str, points: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """[points, 3]: clouds as they come from scenes, and as they come from trouble."""
    uniform = torch.rand(points, 3, generator=generator, dtype=torch.float64)
    normal = torch.randn(points, 3, generator=generator, dtype=torch.float64)
    made = {
        "uniform": uniform,
        "plane": uniform * torch.tensor([3, 2, 0]) + 1,
        "line": uniform * torch.tensor([0, 5, 0]),
        "one place": torch.ones(points, 3, dtype=torch.float64),
        "few places": (uniform * 3).floor(),
        "lattice": (uniform * 20).floor(),
        "clusters": normal * 1e-4 + normal[torch.randint(0, min(9, points), (points,), generator=generator)],
        "outliers": torch.where(uniform[:, :1] > 0.99, normal * 1e9, uniform * 1e-3),
        "far from the origin": uniform + 1e6,
        "tiny": uniform * 1e-22,
        "vanishing": uniform * 1e-30,
        "huge": normal * 1e18,
        "overflowing": normal * 1e25,
        "broken": torch.where(uniform[:, :1] > 0.9, torch.nan, normal),
        "unbounded": torch.where(uniform > 0.95, torch.inf, normal),
        "all broken": normal * torch.nan,
    }
    return made[kind].to(dtype)


KINDS = [
    "uniform", "plane", "line", "one place", "few places", "lattice", "clusters", "outliers", "far from the origin",
    "tiny", "vanishing", "huge", "overflowing", "broken", "unbounded", "all broken",
]  # fmt: skip


def exhaustive(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    rows = max(1, FEW // len(y))
    parts = [nearest_native(part, y) for part in x.split(rows)]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def same_bits(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.sampled_from(KINDS), st.integers(700, 2500), st.booleans(), st.integers(0, 99))
@example("one place", "one place", 2500, False, 0)
@example("huge", "overflowing", 1000, False, 1)
def test_has_the_bits_of_the_exhaustive_search(kind: str, other: str, points: int, double: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if double else torch.float32
    x, y = cloud(kind, 1800, generator, dtype), cloud(other, points, generator, dtype)
    assert len(x) * len(y) > FEW
    for a, b in ((x, y), (y, x), (x, x)):
        squared, index = nearest_native(a, b)
        expected, expected_index = exhaustive(a, b)
        assert torch.equal(index, expected_index)
        assert same_bits(squared, expected)


@pytest.mark.parametrize("kind", ["uniform", "lattice"])
def test_the_bits_do_not_depend_on_threads(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (cloud(kind, points, generator, torch.float32) for points in (20000, 15000))
    threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            found.append(nearest_native(x, y))
    finally:
        torch.set_num_threads(threads)
    for squared, index in found[1:]:
        assert torch.equal(squared, found[0][0]) and torch.equal(index, found[0][1])


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "unbounded"])
def test_no_kind_of_cloud_is_searched_by_comparing_all(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = (cloud(kind, 200000, generator, torch.float32) for _ in range(2))
    start = time.process_time()
    nearest_native(x, y)
    assert time.process_time() - start < 2.0  # 0.05 to 0.3 s; comparing all takes 5 s and more
