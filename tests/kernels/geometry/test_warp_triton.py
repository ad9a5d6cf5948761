"""The Triton kernels of warp consistency against the definition in float64, and the integers that they add up in."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from phys4d.kernels.geometry import warp_consistency
from phys4d.kernels.geometry.fixed_point import fixed_point
from phys4d.kernels.geometry.losses import warp_ops
from phys4d.kernels.geometry.losses.warp_ops import warp_op
from phys4d.kernels.geometry.losses.warp_reference import LOSSES

# What is not used is computed anyhow, and numpy, in which the interpreter computes, would have it known.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero) encountered:RuntimeWarning")

CASES = list(itertools.product(LOSSES, (False, True), ("mask", "clamp")))


def example(dtype: torch.dtype, device: torch.device, *, scale: float = 1.0) -> tuple[Tensor, ...]:
    """depth, motion, visible, weight, truth of two clips whose planes take more than one program."""
    generator = torch.Generator().manual_seed(3)
    depth, truth = torch.rand(2, 2, 3, 37, 41, generator=generator, dtype=torch.float64) + 0.5
    depth[torch.rand(depth.shape, generator=generator) < 0.02] = 0
    motion = torch.randn(2, 3, 2, 37, 41, generator=generator, dtype=torch.float64) * 3
    motion[:, 2] *= scale
    visible = torch.rand(2, 2, 37, 41, generator=generator) > 0.2
    motion.masked_fill_(~visible[:, None], torch.nan)
    weight = torch.rand(2, 2, 37, 41, generator=generator, dtype=torch.float64)
    numbers = (depth * scale, motion, weight, truth * scale)
    depth, motion, weight, truth = (t.to(device, dtype) for t in numbers)
    return depth, motion, visible.to(device), weight, truth


def results(depth: Tensor, motion: Tensor, visible: Tensor | None, **asked) -> list[Tensor]:
    """Value, share, d_depth, d_motion."""
    depth, motion = depth.detach().requires_grad_(), motion.detach().requires_grad_()
    value, share = warp_consistency(depth, motion, visible, report=True, **asked)
    return [value.detach(), share, *torch.autograd.grad(value, (depth, motion))]


@pytest.mark.interpreted
@pytest.mark.parametrize(("loss", "back", "border"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-11)])
def test_the_kernels_compute_the_definition(loss, back, border, dtype, tolerance, device) -> None:
    depth, motion, visible, weight, truth = example(dtype, device)

    def found(dtype: torch.dtype, backend: str) -> list[Tensor]:
        asked = {"weight": weight.to(dtype), "truth": truth.to(dtype) if back else None, "backend": backend}
        return results(depth.to(dtype), motion.to(dtype), visible, loss=loss, border=border, **asked)

    ours, theirs, exact = found(dtype, "triton"), found(dtype, "reference"), found(torch.float64, "reference")
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        assert mine.isfinite().all()
        error, fault = ((t.double() - true).abs().max() for t in (mine, other))
        assert error <= 2 * fault + tolerance * true.abs().max()


@pytest.mark.interpreted
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("planes", [1, 3])
def test_how_many_pairs_are_worked_on_at_a_time_does_not_matter(planes, back, device, monkeypatch) -> None:
    depth, motion, visible, weight, truth = example(torch.float32, device)
    asked = {"weight": weight, "truth": truth if back else None, "backend": "triton"}
    whole = results(depth, motion, visible, **asked)
    monkeypatch.setattr(warp_ops, "CACHED", planes * depth[0, 0].numel() * 8)
    for expected, found in zip(whole, results(depth, motion, visible, **asked), strict=True):
        assert torch.equal(expected, found)


@pytest.mark.interpreted
@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_the_unit_of_depth_does_not_matter(scale: float, device: torch.device) -> None:
    depth, motion, visible, weight, _ = example(torch.float32, device, scale=scale)
    asked = {"weight": weight, "loss": "l1"}
    exact = asked | {"weight": weight.double()}
    for mine, true in zip(
        results(depth, motion, visible, backend="triton", **asked),
        results(depth.double(), motion.double(), visible, backend="reference", **exact),
        strict=True,
    ):
        assert (mine.double() - true).abs().max() <= 3e-6 * true.abs().max()


@pytest.mark.interpreted
def test_nothing_visible_no_z_test_needed_and_two_runs(device: torch.device) -> None:
    depth, motion, visible, weight, _ = example(torch.float32, device)
    none = results(depth * torch.nan, motion * torch.nan, torch.zeros_like(visible), weight=weight, backend="triton")
    assert none[0] == 0 and (none[1] == 1).all() and not none[2].any() and not none[3].any()
    motion = motion.nan_to_num()
    first, second = (results(depth, motion, None, backend="triton") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    plain = results(depth, motion, None, backend="reference")
    assert torch.equal(first[1], plain[1])
    single = results(depth[:, :1], motion[:, :, :0], visible[:, :0], backend="triton")
    assert single[0] == 0 and not single[2].any()


@pytest.mark.interpreted
def test_all_pixels_in_one_cell_do_not_overflow(device: torch.device) -> None:
    depth = torch.full((1, 2, 40, 40), 3.0, dtype=torch.float64, device=device)
    depth[:, 1] = 2.0
    motion = torch.zeros(1, 3, 1, 40, 40, dtype=torch.float64, device=device)
    motion[:, 0, 0] = 20 - torch.arange(40, device=device)[None, :]
    motion[:, 1, 0] = 20 - torch.arange(40, device=device)[:, None]
    seen = torch.ones(1, 1, 40, 40, dtype=torch.bool, device=device)
    found = results(depth, motion, seen, backend="triton")
    assert found[2][0, 1, 20, 20].item() == pytest.approx(-1.0, abs=1e-12)  # the whole weight of the clip
    assert found[2][0, 1].count_nonzero() == 1


@pytest.mark.interpreted
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # NaN to integer, in the interpreter's numpy
def test_a_value_that_is_not_a_number_spoils_its_own_clip_alone(device: torch.device) -> None:
    depth, motion, visible, _, _ = example(torch.float32, device)
    depth[0, 0, 5, 5], visible[0, 0, 5, 5] = torch.nan, True
    motion[0, :, 0, 5, 5] = 0
    depth[0, 1, 5:7, 5:7] = 1.0
    found = results(depth, motion, visible, backend="triton")
    assert found[0].isnan() and found[2][0].isnan().all() and found[2][1].isfinite().all()


@pytest.mark.interpreted
def test_the_operator_is_well_formed_with_its_kernels(device: torch.device) -> None:
    depth, motion, visible, weight, _ = (t[:, ..., :6, :7] for t in example(torch.float32, device))
    motion = motion.nan_to_num()
    arguments = (depth.clone().requires_grad_(), motion.requires_grad_(), visible, weight, None, "l1", -1.0, False)
    assert set(torch.library.opcheck(warp_op, arguments).values()) == {"SUCCESS"}


@given(peak=st.floats(1e-30, 1e30), count=st.integers(1, 10**9))
def test_sums_of_the_largest_contributions_fit_and_lose_little(peak: float, count: int) -> None:
    step, unit = fixed_point(torch.tensor([peak], dtype=torch.float64), count)
    largest = math.floor(peak * step.item() + 0.5) * count
    assert largest < 2**63 and step.item() * unit.item() == 1 and math.frexp(step.item())[0] == 0.5
    assert unit.item() <= peak * count / 2**60
