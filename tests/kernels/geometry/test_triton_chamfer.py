"""The Triton kernels of Chamfer against the reference: who is nearest, values, gradients; interpreted or on a GPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phys4d.kernels.geometry import chamfer
from phys4d.kernels.geometry.clouds.chamfer_ops import chamfer_backward_op, chamfer_op

pytestmark = pytest.mark.interpreted


def batch(seed: int, n: int, m: int, dimensions: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    clouds = [torch.randn(3, size, dimensions, generator=generator, dtype=torch.float64).to(dtype) for size in (n, m)]
    lengths = [torch.randint(0, size + 1, (3,), generator=generator) for size in (n, m)]
    for cloud, count in zip(clouds, lengths, strict=True):
        cloud[torch.arange(cloud.shape[1]) >= count[:, None]] = torch.nan
    return [t.to(device) for t in (*clouds, *lengths)]


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 999),
    n=st.integers(0, 150),
    m=st.integers(0, 150),
    dimensions=st.sampled_from([3, 4]),
    squared=st.booleans(),
    lattice=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_equals_the_reference(
    device: torch.device, seed: int, n: int, m: int, dimensions: int, squared: bool, lattice: bool, dtype: torch.dtype
) -> None:
    x, y, x_lengths, y_lengths = batch(seed, n, m, dimensions, dtype, device)
    if lattice:
        x, y = x.round(), y.round()
    arguments = x, y, x_lengths, y_lengths, squared
    value, nearest_in_y, nearest_in_x = chamfer_op(*arguments, "triton")
    expected, expected_y, expected_x = chamfer_op(*arguments, "reference")
    assert torch.equal(nearest_in_y, expected_y) and torch.equal(nearest_in_x, expected_x)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    gradient = torch.tensor([1.0, -2.0, 0.5], dtype=dtype, device=device)
    where = x, y, x_lengths, y_lengths, nearest_in_y, nearest_in_x, squared
    found = chamfer_backward_op(gradient, *where, "triton")
    for got, want in zip(found, chamfer_backward_op(gradient, *where, "reference"), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    again = chamfer_backward_op(gradient, *where, "triton")
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


def test_points_that_are_no_numbers_or_infinite(device: torch.device) -> None:
    x, y = torch.randn(3, 40, 3), torch.randn(3, 37, 3)
    x[1, 7], y[2, 0, 1], y[0, 5, 2] = torch.nan, torch.nan, torch.inf
    x, y, lengths = x.to(device), y.to(device), (torch.tensor([40] * 3), torch.tensor([37] * 3))
    arguments = x, y, *(count.to(device) for count in lengths), False
    value, nearest_in_y, nearest_in_x = chamfer_op(*arguments, "triton")
    expected, expected_y, expected_x = chamfer_op(*arguments, "reference")
    assert torch.equal(nearest_in_y, expected_y) and torch.equal(nearest_in_x, expected_x)
    assert value[0].isinf() and value[1:].isnan().all() and expected[0].isinf()


def test_gradcheck(device: torch.device) -> None:
    x, y, n, m = batch(2, 9, 7, 3, torch.float64, device)
    x, y = (c.nan_to_num(3.0).requires_grad_() for c in (x, y))
    assert torch.autograd.gradcheck(lambda a, b: chamfer_op(a, b, n, m, False, "triton")[0], (x, y), fast_mode=True)


def test_is_what_the_public_function_takes(device: torch.device) -> None:
    x, y, n, m = batch(4, 70, 60, 3, torch.float32, device)
    value = chamfer(x, y, x_lengths=n, y_lengths=m, cap=2.0, backend="triton")
    torch.testing.assert_close(value, chamfer(x, y, x_lengths=n, y_lengths=m, cap=2.0, backend="reference"))


@pytest.mark.parametrize(("dimensions", "squared"), [(3, False), (4, True)])
def test_a_point_that_very_many_chose_gets_all_of_it(device: torch.device, dimensions: int, squared: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(2, points, dimensions, generator=generator).to(device) for points in (40, 900))
    n, m = torch.tensor([40, 30], device=device), torch.tensor([900, 800], device=device)
    nearest_in_y = torch.randint(0, 800, (2, 40), generator=generator).to(device)
    nearest_in_x = torch.arange(900) // 10  # ten each, and then whole runs for one, which begin and end anywhere
    nearest_in_x = torch.stack((nearest_in_x.clamp(max=25), torch.full_like(nearest_in_x, 29)))
    nearest_in_x = nearest_in_x[:, torch.randperm(900, generator=generator)].to(device)
    gradient = torch.tensor([1.0, -2.0], device=device)
    where = x, y, n, m, nearest_in_y, nearest_in_x, squared
    found = chamfer_backward_op(gradient, *where, "triton")
    for got, want in zip(found, chamfer_backward_op(gradient, *where, "reference"), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
