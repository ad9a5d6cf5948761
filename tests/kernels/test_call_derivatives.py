"""Derivatives of operators are right or refused with a sentence, never silently wrong or zero."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from phys4d.kernels.attention import Full, Temporal, attention, attention_packed, attention_reference
from phys4d.kernels.dispatch import unsupported_transform
from phys4d.kernels.elementwise import adaptive_norm, norm_rope
from tests.kernels.operator_calls import CALLS, DIFFERENTIABLE, OperatorCall, doubled

PROCESS = pytest.mark.parametrize("process", ["cpu", pytest.param("triton", marks=pytest.mark.interpreted)])
# What an error says where a derivative does not exist: ours, then torch's of its own operators.
REFUSALS = re.compile(
    r"is not supported|there is no second derivative|cannot serve"
    r"|Trying to use forward AD with|derivative for .* is not implemented|Batching rule not implemented"
    r"|not supported.*[Vv]map|[Vv]map"
)


def scalar(call: OperatorCall, argument: str) -> Callable[[Tensor], Tensor]:
    """The sum of squares of the call's floating results as a function of one argument."""

    def of(x: Tensor) -> Tensor:
        outputs = call.outputs("auto", call.tensors | {argument: x})
        floating = [t.double().nan_to_num(neginf=0).square().sum() for t in outputs if t.is_floating_point()]
        return sum(floating, torch.zeros((), dtype=torch.float64))

    return of


def exact_gradient(call: OperatorCall, argument: str) -> Tensor:
    """Its gradient by the definition in float64, in backward mode."""
    exact = {name: doubled(t) for name, t in call.tensors.items()}
    x = exact[argument].requires_grad_()
    outputs = call.outputs("reference", exact)
    value = sum(t.nan_to_num(neginf=0).square().sum() for t in outputs if t.is_floating_point() and t.requires_grad)
    return torch.autograd.grad(value, x)[0]


def right_or_refused(compute: Callable[[], Any], expected: Tensor | None, *, tolerance: float = 2e-3) -> str:
    """Asserts that the result is the expected one, or that an error says why there is none; returns which."""
    try:
        found = compute()
    except (RuntimeError, ValueError) as refused:
        assert REFUSALS.search(str(refused)), f"{type(refused).__name__}: {refused}"
        return "refused"
    assert expected is not None and found is not None
    torch.testing.assert_close(found.double(), expected.double(), rtol=tolerance, atol=tolerance)
    return "right"


# Where "auto" takes the definition inside torch.func and forward mode.
SERVED = {
    "unproject", "flow_warp", "splat", "lift_4d", "depth_losses", "flow_loss", "scene_flow_loss", "warp_consistency",
    "warp_consistency, backward form",
}  # fmt: skip
ARGUMENTS = [(name, CALLS[name].leaves[0]) for name in DIFFERENTIABLE]


@PROCESS
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_forward_mode_and_torch_func(name, argument, process):
    call = CALLS[name]
    x, gradient = call.tensors[argument], exact_gradient(call, argument)
    function = scalar(call, argument)
    along = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    derivative = (gradient * along).sum()

    def forward_mode() -> Tensor | None:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(function(forward_ad.make_dual(x, along))).tangent

    outcomes = [
        right_or_refused(forward_mode, derivative),
        right_or_refused(lambda: torch.func.jvp(function, (x,), (along,))[1], derivative),
        right_or_refused(lambda: torch.func.grad(function)(x), gradient),
    ]
    assert name not in SERVED or outcomes == ["right"] * 3


@PROCESS
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_vmap(name, argument, process):
    call = CALLS[name]
    x, function = call.tensors[argument], scalar(call, argument)
    pair = torch.stack((x, x * 1.01))
    right_or_refused(lambda: torch.func.vmap(function)(pair), torch.stack([function(x), function(x * 1.01)]))


@PROCESS
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_a_second_derivative(name, argument, process):
    """By our operators it is refused; functions in plain torch have one, which is compared with a difference."""
    call = CALLS[name]
    x = call.tensors[argument].detach().requires_grad_()
    (first,) = torch.autograd.grad(scalar(call, argument)(x), x, create_graph=True)
    exact = {name: doubled(t) for name, t in call.tensors.items()}
    along = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))

    def gradient_at(step: float) -> Tensor:
        tensors = {name: t.double() if t.is_floating_point() else t for name, t in call.tensors.items()}
        moved = OperatorCall(call.function, tensors | {argument: exact[argument] + step * along}, call.leaves)
        return exact_gradient(moved, argument)

    difference = (gradient_at(1e-6) - gradient_at(-1e-6)) / 2e-6
    right_or_refused(lambda: torch.autograd.grad((first * along).sum(), x)[0], difference, tolerance=1e-2)


@PROCESS
@pytest.mark.parametrize("name", CALLS)
def test_float8_is_converted_or_refused(name, process):
    call = CALLS[name]
    for argument, tensor in call.tensors.items():
        if not tensor.is_floating_point():
            continue
        eighth = tensor.to(torch.float8_e4m3fn)
        try:
            found = call.outputs("auto", call.tensors | {argument: eighth})
        except (ValueError, RuntimeError) as refused:
            assert re.search(r"float8", str(refused), re.IGNORECASE) and len(str(refused)) < 200, refused
            continue
        for mine, right in zip(found, call.outputs("auto", call.tensors | {argument: eighth.float()}), strict=True):
            torch.testing.assert_close(mine.to(right.dtype), right, equal_nan=True)


def q_of(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.interpreted
@pytest.mark.parametrize(
    "call",
    [
        lambda q: attention(q, q, q, grid=(2, 2, 2), pattern=Temporal(), backend="triton"),
        lambda q: attention_packed(torch.stack((q, q, q), 2), pattern=Full(), backend="triton"),
    ],
)
def test_the_kernel_says_that_it_has_no_forward_derivative(call):
    q = q_of(1, 8, 2, 16)
    with pytest.raises(ValueError, match="backend 'triton' cannot serve this call: .*forward-mode differentiation"):
        torch.func.jvp(call, (q,), (q,))


@pytest.mark.interpreted
def test_auto_takes_a_backend_that_has_the_derivative():
    q = q_of(1, 8, 2, 16).double()

    def by(backend: str) -> Any:
        return lambda q: attention(q, q * 0.5, q, grid=(2, 2, 2), pattern=Temporal(), backend=backend)

    for found in (torch.func.jvp(by("reference"), (q,), (q,)), torch.func.jvp(exact_temporal, (q,), (q,))):
        assert found[1].abs().max() > 0
    torch.testing.assert_close(
        torch.func.jvp(by("reference"), (q,), (q,))[1], torch.func.jvp(exact_temporal, (q,), (q,))[1]
    )


def exact_temporal(q: Tensor) -> Tensor:
    return attention_reference(q, q * 0.5, q, grid=(2, 2, 2), pattern=Temporal())[0]


@pytest.mark.parametrize("call", [lambda x: norm_rope(x, None, None, None, 0.0, None, (1, 1, 1)), adaptive_norm])
def test_an_operator_without_backends_names_itself(call):
    x = q_of(1, 4, 8) if call is adaptive_norm else q_of(1, 4, 2, 8)
    with pytest.raises(RuntimeError, match=r"phys4d::\w+: torch.func is not supported, its gradient is that of"):
        torch.func.grad(lambda x: torch.as_tensor(call(x)[0]).sum())(x)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward-mode differentiation is not"):
        call(forward_ad.make_dual(x, x))


def test_no_transform_is_in_effect_in_an_ordinary_call_and_in_vmap():
    seen = []
    x = torch.ones(2)
    torch.func.vmap(lambda x: seen.append(unsupported_transform()) or x)(x)
    torch.func.grad(lambda x: seen.append(unsupported_transform()) or x.sum())(x)
    torch.func.jvp(lambda x: seen.append(unsupported_transform()) or x, (x,), (x,))
    torch.func.vmap(torch.func.grad(lambda x: seen.append(unsupported_transform()) or x))(x)
    assert seen == [None, "torch.func", "forward-mode differentiation", "torch.func"]
    assert unsupported_transform() is None


def test_a_compiled_call_refuses_it_too():
    x = q_of(1, 4, 8)
    compiled = torch.compile(lambda x: torch.func.jvp(lambda x: adaptive_norm(x)[1], (x,), (x,))[1], backend="eager")
    with pytest.raises(Exception, match="forward-mode differentiation is not supported"):
        compiled(x)
