"""The Triton kernels of the flow loss against the definition in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.kernels.geometry import flow_loss
from phys4d.kernels.geometry.losses.flow_ops import BLOCK, flow_loss_op
from phys4d.kernels.geometry.losses.flow_reference import KINDS

SIZES = [(2, 2, 2, 9, 31), (1, 1, 1, 1, 1), (1, 3, 1, 1, BLOCK + 1)]


def example(sizes, device: torch.device, *, scale: float = 1.0) -> dict[str, Tensor]:
    """Arguments by name, float32; a few pixels have no error, and what is masked is NaN."""
    generator = torch.Generator().manual_seed(3)
    pixels = (sizes[0], *sizes[2:])
    target = torch.randn(sizes, generator=generator) * 3 * scale
    right = torch.rand(pixels, generator=generator) < 0.1
    predicted = torch.where(right.unsqueeze(1), target, target + torch.randn(sizes, generator=generator) * scale)
    made = {"predicted": predicted, "target": target, "weight": torch.rand(pixels, generator=generator)}
    made["confidence"] = torch.randn((sizes[0], 2, *sizes[2:]), generator=generator)
    made["valid"] = torch.rand(pixels, generator=generator) > 0.25
    for name in ("predicted", "target", "confidence"):
        made[name].masked_fill_(~made["valid"].unsqueeze(1), torch.nan)
    made["weight"].masked_fill_(~made["valid"], torch.nan)
    return {name: t.to(device) for name, t in made.items()}


def results(made: dict[str, Tensor], kind: str, backend: str = "triton", dtype=torch.float32) -> list[Tensor]:
    """The value, and its gradients by predicted and, for laplace, confidence."""
    given: dict[str, Any] = {name: t if name == "valid" else t.detach().to(dtype) for name, t in made.items()}
    leaves = ("predicted", "confidence") if kind == "laplace" else ("predicted",)
    given |= {name: given[name].requires_grad_() for name in leaves}
    if kind != "laplace":
        given["confidence"] = None
    value = flow_loss(**given, kind=kind, backend=backend)  # type: ignore[arg-type]
    return [value.detach(), *torch.autograd.grad(value, [given[name] for name in leaves])]


@pytest.mark.interpreted
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("sizes", "scale"), [(SIZES[0], 1.0), (SIZES[1], 1e4), (SIZES[2], 1e-4)])
def test_the_kernels_compute_the_definition(kind: str, sizes, scale: float, device: torch.device) -> None:
    made = example(sizes, device, scale=scale)
    exact = results(made, kind, "reference", torch.float64)
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-13)):
        for mine, other, true in zip(
            results(made, kind, dtype=dtype), results(made, kind, "reference", dtype), exact, strict=True
        ):
            assert mine.isfinite().all() and mine.dtype == dtype
            error, fault = ((t.double() - true).abs().max() for t in (mine, other))
            assert error <= 2 * fault + tolerance * true.abs().max()


@pytest.mark.interpreted
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradients_are_those_of_the_value(kind: str, device: torch.device) -> None:
    made = {name: t[..., :2] for name, t in example((1, 2, 1, 2, 3), device).items()}
    made |= {name: torch.where(made[name].isfinite(), made[name].double(), 1.0) for name in made if name != "valid"}
    made["predicted"] = made["predicted"] + 0.05
    leaves = ["predicted", "confidence"][: 1 + (kind == "laplace")]

    def value(*numbers: Tensor) -> Tensor:
        given: dict[str, Any] = made | {"confidence": None} | dict(zip(leaves, numbers, strict=True))
        return flow_loss(**given, kind=kind, backend="triton")  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(value, [made[name].requires_grad_() for name in leaves])


@pytest.mark.interpreted
@pytest.mark.parametrize("kind", ["epe", "laplace"])
def test_masks_strides_and_two_runs(kind: str, device: torch.device) -> None:
    made = example(SIZES[0], device)
    first = results(made, kind)
    still = ~made["valid"].unsqueeze(1) | (made["predicted"] == made["target"])
    assert not first[1][still].any()
    apart = {n: torch.stack((t, t), -1)[..., 0] for n, t in made.items()}  # every second number
    part = made | {n: torch.cat((made[n], made[n]), 1)[:, : made[n].shape[1]] for n in ("predicted", "target")}
    for other in (made, apart, part):
        assert all(torch.equal(a, b) for a, b in zip(first, results(other, kind), strict=True))
    for changed in (
        made | {"valid": torch.zeros_like(made["valid"])}, made | {"weight": torch.zeros_like(made["weight"])},
        {n: t[..., :0, :] for n, t in made.items()}, {n: t[:0] for n, t in made.items()},
    ):  # fmt: skip
        assert not any(numbers.any() for numbers in results(changed, kind))


@pytest.mark.interpreted
@pytest.mark.parametrize("kind", ["l1", "laplace"])
def test_the_operator_is_well_formed_with_its_kernels(kind: str, device: torch.device) -> None:
    made = {n: torch.where(t.isfinite(), t, 1) for n, t in example((2, 2, 1, 3, 4), device).items()}
    fields = [made[name].flatten(2).requires_grad_() for name in ("predicted", "target", "confidence")]
    rest = (made["valid"].flatten(1), made["weight"].flatten(1), fields[2] if kind == "laplace" else None, kind)
    arguments = (fields[0], fields[1].detach(), *rest)
    assert set(torch.library.opcheck(flow_loss_op, arguments).values()) == {"SUCCESS"}
