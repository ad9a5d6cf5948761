"""The Triton kernels of the depth losses against the definition in float64."""

import pytest
import torch
from torch import Tensor

from phys4d.kernels.geometry import depth_loss, depth_losses
from phys4d.kernels.geometry.losses.depth_ops import ROW, TILE, depth_losses_op
from phys4d.kernels.geometry.losses.depth_reference import KINDS

ODD = (1, 2, TILE[0] + 3, TILE[1] + 5)


def example(sizes, device: torch.device, *, scale: float = 1.0, dtype=torch.float32) -> tuple[Tensor, ...]:
    """predicted, target, valid, weight; NaN where masked; the last frame of the first clip has nothing valid."""
    generator = torch.Generator().manual_seed(5)
    target = torch.rand(sizes, generator=generator, dtype=torch.float64) * 3 + 0.5
    predicted = (target * 0.8 + 0.3) * (1 + 0.2 * torch.randn(sizes, generator=generator).double()).abs() + 0.1
    valid = torch.rand(sizes, generator=generator) > 0.25
    valid[0, 1:] = False
    weight = torch.rand(sizes, generator=generator, dtype=torch.float64)
    numbers = (predicted * scale, target * scale, weight)
    predicted, target, weight = (t.masked_fill(~valid, torch.nan).to(device, dtype) for t in numbers)
    return predicted, target, valid.to(device), weight


def results(predicted: Tensor, target: Tensor, valid: Tensor, **asked) -> tuple[Tensor, Tensor]:
    """All four losses, or that of `kind`, and the gradient of a mixture of them."""
    predicted = predicted.detach().requires_grad_()
    if "kind" in asked:
        value = depth_loss(predicted, target, valid, **asked)
        return value.detach(), torch.autograd.grad(value, predicted)[0]
    values = torch.stack(depth_losses(predicted, target, valid, **asked))
    mixed = (values * torch.tensor([1.0, 0.5, 2.0, 0.3], dtype=values.dtype, device=values.device)).sum()
    return values.detach(), torch.autograd.grad(mixed, predicted)[0]


def agrees(given: tuple[Tensor, ...], weighted: bool, **asked) -> None:
    """In float64 to rounding, in float32 as well as torch."""

    def found(dtype: torch.dtype, backend: str) -> tuple[Tensor, Tensor]:
        predicted, target, valid, weight = given
        chosen = weight.to(dtype) if weighted else None
        return results(predicted.to(dtype), target.to(dtype), valid, weight=chosen, backend=backend, **asked)

    exact = found(torch.float64, "reference")
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        for mine, other, true in zip(found(dtype, "triton"), found(dtype, "reference"), exact, strict=True):
            assert mine.isfinite().all() and mine.dtype == dtype
            error, fault = ((t.double() - true).abs().max() for t in (mine, other))
            assert error <= 2 * fault + tolerance * true.abs().max()


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("sizes", "scale", "scope", "scales", "weighted"),
    [
        (ODD, 1.0, "frame", 4, True),
        ((1, 2, 9, 7), 1e4, "clip", 8, False),
        ((1, 1, 1, 1), 1e-4, "frame", 4, True),
        ((1, 1, 3, 2 * TILE[1] + 1), 1e-4, "clip", 8, True),
    ],
)
def test_the_kernels_compute_the_definition(sizes, scale, scope, scales, weighted, device) -> None:
    agrees(example(sizes, device, scale=scale), weighted, scope=scope, scales=scales)


@pytest.mark.interpreted
@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("sizes", [(1, 2, 33, ROW[1] // 32 + 1), (2, 1, 1, 7)])
def test_one_kind_alone_is_as_right(kind: str, sizes, device: torch.device) -> None:
    agrees(example(sizes, device), True, kind=kind)


@pytest.mark.interpreted
def test_large_means_cancel_nothing(device: torch.device) -> None:
    _, target, valid, weight = example((1, 2, 37, 59), device, dtype=torch.float64)
    asked = {"weight": weight, "kind": "scale_shift", "scope": "clip"}
    near = results(target * 1e-5, target, valid, backend="triton", **asked)[0]
    far = results(target * 1e-5 + 1e3, target, valid, backend="triton", **asked)[0]
    assert near < 1e-15 and far < 1e-8


@pytest.mark.interpreted
def test_the_gradients_are_those_of_the_values(device: torch.device) -> None:
    predicted, target, valid, weight = example((1, 1, 3, 4), device, dtype=torch.float64)
    predicted = predicted.masked_fill(~valid, 1.0)

    def values(predicted: Tensor) -> Tensor:
        return torch.stack(depth_losses(predicted, target, valid, weight=weight, scales=2, backend="triton"))

    assert torch.autograd.gradcheck(values, predicted.requires_grad_())


@pytest.mark.interpreted
def test_masks_strides_flat_groups_and_two_runs(device: torch.device) -> None:
    predicted, target, valid, weight = example((2, 2, 5, 33), device)
    first = results(predicted, target, valid, weight=weight, backend="triton")
    assert not first[1][~valid].any()
    turned = [t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in (predicted, target, valid)]
    longer = [torch.cat((t, t), 1)[:, :2] for t in (predicted, target, valid)]
    for pair in ((predicted, target, valid), turned, longer):
        other = results(*pair, weight=weight, backend="triton")
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    flat = results(torch.ones_like(target), target, valid, backend="triton")  # no scale fits a constant
    assert flat[0].isfinite().all() and flat[1].isfinite().all()
    same = results(target, target, valid, backend="triton")
    assert not same[0][[0, 1, 3]].any() and same[1].abs().max() < 1e-6
    rest: dict[str, Tensor | str] = {"weight": weight, "backend": "triton"}
    for numbers in results(predicted, target, torch.zeros_like(valid), **rest):
        assert not numbers.any()
    for kind in KINDS[:3]:
        asked = {"kind": kind, "weight": torch.zeros_like(weight), "backend": "triton"}
        assert not any(numbers.any() for numbers in results(predicted, target, valid, **asked))
    for cut in ((slice(0), slice(None)), (slice(None), slice(0)), (..., slice(0), slice(None)), (..., slice(0))):
        assert not results(predicted[cut], target[cut], valid[cut], backend="triton")[0].any()


@pytest.mark.interpreted
def test_the_operator_is_well_formed_with_its_kernels(device: torch.device) -> None:
    predicted, target, valid, weight = (t[..., :6].contiguous() for t in example((1, 2, 3, 6), device))
    numbers = (t.masked_fill(~valid, 1.0) for t in (predicted, target, weight))
    predicted, target, weight = numbers
    arguments = (predicted.requires_grad_(), target, valid, weight, False, 0.85, 3, 15)
    assert set(torch.library.opcheck(depth_losses_op, arguments).values()) == {"SUCCESS"}
