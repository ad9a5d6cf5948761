"""The Triton walk through trees against the reference, to the bit; interpreted or on a GPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phys4d.kernels.geometry import chamfer, nearest
from phys4d.kernels.geometry.clouds import curve
from phys4d.kernels.geometry.clouds.chamfer_ops import chamfer_op
from phys4d.kernels.geometry.clouds.chamfer_reference import nearest_reference
from phys4d.kernels.geometry.clouds.neighbours import one_way, plan

pytestmark = pytest.mark.interpreted


def troubled(kind: str, points: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    normal = torch.randn(points, 3, generator=generator, dtype=torch.float64)
    uniform = torch.rand(points, 3, generator=generator, dtype=torch.float64)
    return {
        "scattered": normal,
        "one place": torch.ones_like(normal),
        "lattice": (normal * 2).round(),
        "a wild point": torch.cat((normal[1:], torch.full((1, 3), 1e30, dtype=torch.float64))),
        "overflowing": normal * 1e25,
        "broken": torch.where(uniform > 0.9, torch.nan, normal),
        "unbounded": torch.where(uniform > 0.9, torch.inf, normal),
    }[kind].to(dtype)  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("scattered", "scattered"), ("one place", "one place"), ("lattice", "lattice"), ("scattered", "a wild point"),
        ("a wild point", "overflowing"), ("broken", "unbounded"), ("unbounded", "broken"),
    ],
)  # fmt: skip
def test_has_the_bits_of_the_reference(device: torch.device, kind: str, other: str) -> None:
    generator = torch.Generator().manual_seed(0)
    dtype = torch.float64 if kind == "scattered" == other else torch.float32
    x, y = (troubled(k, points, dtype, generator).to(device) for k, points in ((kind, 100), (other, 230)))
    lengths = [torch.tensor([len(cloud)], device=device) for cloud in (x, y)]
    squares, index = one_way("triton", "tree", x[None], y[None], *lengths)
    expected, expected_index = nearest_reference(x, y)
    assert torch.equal(index[0], expected_index)
    assert (squares[0].eq(expected) | (squares[0].isnan() & expected.isnan())).all()


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 70), st.integers(0, 70), st.sampled_from([3, 4]), st.booleans(), st.integers(0, 99))
def test_ragged_batches_with_their_gradients(
    device: torch.device, n: int, m: int, dimensions: int, lattice: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    clouds = [torch.randn(2, points, dimensions, generator=generator) for points in (n, m)]
    lengths = [torch.randint(0, points + 1, (2,), generator=generator) for points in (n, m)]
    for points, count in zip(clouds, lengths, strict=True):
        points.copy_(points.round() if lattice else points)
        points[torch.arange(points.shape[1]) >= count[:, None]] = torch.nan
    given_ = [t.to(device) for t in (*clouds, *lengths)]
    value, nearest_in_y, nearest_in_x = chamfer_op(*given_, False, "triton", "tree")
    expected, expected_y, expected_x = chamfer_op(*given_, False, "reference")
    assert torch.equal(nearest_in_y, expected_y) and torch.equal(nearest_in_x, expected_x)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)


def test_the_search_asked_for_is_made(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(60, 3, generator=generator).to(device).requires_grad_() for _ in range(2))
    assert plan("nearest", "triton", "auto", x[None], y[None]) == ("triton", "exhaustive")
    found = [nearest(x, y, backend="triton", search=search) for search in ("exhaustive", "tree")]  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    values = [chamfer(x[None], y[None], backend="triton", search=search) for search in ("exhaustive", "tree")]  # type: ignore[arg-type]
    assert torch.equal(*values)
    gradients = [torch.autograd.grad(value.sum(), (x, y)) for value in values]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("dimensions", [3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_curve_is_the_one_that_torch_draws(device: torch.device, dimensions: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    cloud = torch.randn(2, 300, dimensions, generator=generator, dtype=torch.float64).to(dtype)
    cloud[0, 3], cloud[0, 7, 1], cloud[1, 5] = torch.nan, torch.inf, 1e30
    cloud[1, 40:60] = cloud[1, 40]
    cloud, lengths = cloud.to(device), torch.tensor([300, 200], device=device)
    edges = curve.edges_of(cloud, lengths)
    keys = curve.keys_by_triton(cloud, lengths, edges)
    assert torch.equal(keys, curve.keys_by_torch(cloud, lengths, edges))
    assert keys[0, 3] == keys[0, 7] == curve.NOWHERE and (keys[1, 200:] == curve.NOWHERE).all()
    assert (keys[1, :200] < curve.NOWHERE).all() and (keys >= 0).all()
