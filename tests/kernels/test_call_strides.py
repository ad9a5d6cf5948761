"""Tensors of any strides give the results of contiguous ones: arguments of every operator, gradients of its results.

What lies between the elements is NaN, or another valid integer: a kernel that ignores strides gives another result.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from tests.kernels.operator_calls import CALLS, DIFFERENTIABLE, WITH_KERNELS, OperatorCall


def between(tensor: Tensor) -> Tensor:
    """Elements that must not be read."""
    if tensor.is_floating_point():
        return torch.full_like(tensor, torch.nan)
    return ~tensor if tensor.dtype == torch.bool else tensor.flip(0).clamp(max=1)


def strided(tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The same elements with other strides and offsets."""
    other = between(tensor)
    for axis in range(tensor.ndim):
        yield f"every second along {axis}", torch.stack((tensor, other), axis + 1).select(axis + 1, 0)
    yield "offset", torch.cat((other.flatten()[:1], tensor.flatten()))[1:].view(tensor.shape)
    if tensor.ndim > 1:
        yield "first two exchanged", tensor.transpose(0, 1).contiguous().transpose(0, 1)
        order = list(range(tensor.ndim))[::-1]
        yield "reversed", tensor.permute(order).contiguous().permute(order)


def expanded(tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The first elements along each axis, repeated by a stride of 0."""
    for axis, size in enumerate(tensor.shape):
        if size > 1:
            yield f"expanded along {axis}", tensor.narrow(axis, 0, 1).expand_as(tensor)


def holds(call: OperatorCall, tensors: dict[str, Tensor], what: str) -> None:
    """Asserts that results and gradients are those of the definition in float64."""
    given = {name: t.detach().requires_grad_(name in call.leaves) for name, t in tensors.items()}
    found, (exact, leaves) = call.outputs("auto", given), call.exactly(given)
    close(found, exact, what)
    if call.leaves:
        mine = torch.autograd.grad(total(found), [given[name] for name in call.leaves], allow_unused=True)
        right = torch.autograd.grad(total(exact), list(leaves.values()), allow_unused=True)
        close([t for t in mine if t is not None], [t for t in right if t is not None], f"gradient, {what}")


def total(outputs: list[Tensor]) -> Tensor:
    """A sum of all results in which every element has a weight of its own."""
    parts = [t.double().nan_to_num(neginf=0).flatten() for t in outputs if t.requires_grad]
    return sum((part @ torch.linspace(-1, 2, len(part), dtype=torch.float64) for part in parts), torch.zeros(()))


def close(found: list[Tensor], exact: list[Tensor], what: str) -> None:
    assert len(found) == len(exact)
    for mine, right in zip(found, exact, strict=True):
        torch.testing.assert_close(
            mine.to(right.dtype), right, rtol=2e-4, atol=2e-5, equal_nan=True, msg=lambda text: f"{what}: {text}"
        )


@pytest.mark.parametrize(("name", "argument"), [(name, arg) for name, call in CALLS.items() for arg in call.tensors])
def test_an_argument_may_have_any_strides(name, argument):
    """On a CPU: native code, and the definitions."""
    call = CALLS[name]
    served = 0
    for what, view in views(call, argument):
        tensors = call.tensors | {argument: view}
        if not fits(call, argument, view):
            with pytest.raises(ValueError, match="contiguous"):
                call.outputs("auto", tensors)
            continue
        served += 1
        holds(call, tensors, f"{argument} {what}, strides {view.stride()}")
    assert served


def views(call: OperatorCall, argument: str) -> list[tuple[str, Tensor]]:
    tensor = call.tensors[argument]
    same = [(w, v) for w, v in expanded(tensor) if argument not in call.whole or torch.equal(v, tensor)]
    return [*strided(tensor), *same]


def fits(call: OperatorCall, argument: str, view: Tensor) -> bool:
    return argument not in call.rows or view.stride(-1) == 1


@pytest.mark.interpreted
@pytest.mark.parametrize("way", range(3))
@pytest.mark.parametrize("name", WITH_KERNELS)
def test_all_arguments_may_have_strides_of_their_own(name, way):
    """Triton kernels: in each of three calls every argument is arranged in another way, once of three expanded."""
    call = CALLS[name]
    tensors, arranged = {}, {}
    for number, (argument, tensor) in enumerate(call.tensors.items()):
        possible = [(what, view) for what, view in views(call, argument) if fits(call, argument, view)]
        words = ("every second", ("reversed", "first two exchanged", "offset"), "expanded along 0")[(number + way) % 3]
        chosen = [(what, view) for what, view in possible if what.startswith(words)] or possible
        arranged[argument], tensors[argument] = chosen[-1]
        assert torch.equal(tensors[argument], tensor) or arranged[argument].startswith("expanded")
    holds(call, tensors, str(arranged))


@pytest.mark.slow
@pytest.mark.interpreted
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("name", [name for name in WITH_KERNELS if "chamfer" not in name and name != "nearest"])
def test_addresses_beyond_int32(name, axis):
    """Elements along an axis more than 2^31 / (size - 1) apart: of the memory between, nothing is touched."""
    call = CALLS[name]
    tensors = dict(call.tensors)
    for argument, tensor in tensors.items():
        if tensor.is_floating_point() and axis < tensor.ndim - 1 > 1:
            tensors[argument] = far_apart(tensor, axis)
    holds(call, tensors, f"axis {axis}")


def far_apart(tensor: Tensor, axis: int) -> Tensor:
    """The tensor with its elements along the axis so far apart that the last one is beyond 2^31 elements."""
    strides = list(tensor.stride())
    strides[axis] = (2**31 // (tensor.shape[axis] - 1) // 16 + 1) * 16
    count = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, strides, strict=True))
    return torch.empty(count, dtype=tensor.dtype).as_strided(tensor.shape, strides).copy_(tensor)


def gradients_of(shape: torch.Size, generator: torch.Generator) -> list[tuple[str, Tensor]]:
    """Gradients of a result as torch passes them back: of a sum, of a mean over an axis, of a view of the result."""
    whole = torch.randn(shape, generator=generator)
    alone = torch.randn((), generator=generator).expand(shape)
    return [("of a sum", alone), *expanded(whole), *strided(whole)]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_gradient_may_have_any_strides(name):
    """On a CPU: native code, and the definitions."""
    gradients_hold(CALLS[name], lambda what: True)


@pytest.mark.interpreted
@pytest.mark.parametrize("name", [name for name in WITH_KERNELS if name in DIFFERENTIABLE])
def test_a_gradient_for_kernels_may_have_any_strides(name):
    last = ("of a sum", "expanded along 2", "expanded along 3", "every second along 0", "offset", "reversed")
    gradients_hold(CALLS[name], last.__contains__)


def gradients_hold(call: OperatorCall, chosen: Callable[[str], bool]) -> None:
    """Asserts the gradients of every result for its gradients of the chosen arrangements."""
    generator = torch.Generator().manual_seed(1)
    given = {name: t.detach().requires_grad_(name in call.leaves) for name, t in call.tensors.items()}
    found, (exact, leaves) = call.outputs("auto", given), call.exactly(given)
    wanted = [given[name] for name in call.leaves]
    for number, (out, right) in enumerate(zip(found, exact, strict=True)):
        if not out.requires_grad or out.ndim == 0:
            continue
        for what, dout in gradients_of(out.shape, generator):
            if not chosen(what):
                continue
            mine = torch.autograd.grad(out, wanted, dout, retain_graph=True, allow_unused=True)
            expected = torch.autograd.grad(
                right, list(leaves.values()), dout.double(), retain_graph=True, allow_unused=True
            )
            pairs = [(a, b) for a, b in zip(mine, expected, strict=True) if a is not None and b is not None]
            assert pairs
            close([a for a, _ in pairs], [b for _, b in pairs], f"result {number}, gradient {what}, {dout.stride()}")
