"""Operators called past torch's registered gradient do what the registered operator does."""

import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from phys4d.kernels.dispatch import operator
from phys4d.kernels.elementwise import QKNorm, Rope, TokenRows, adaptive_norm, qk_norm_rope
from phys4d.kernels.elementwise.adaptive_norm_ops import op

GRID = (2, 2, 1)


def leaves(*names):
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (1, 4, 8), "y": (1, 4, 8), "q": (1, 4, 2, 4), "k": (1, 4, 2, 4)}
    return [
        torch.randn(shapes.get(name, (2, 8)), generator=generator, dtype=torch.float64).requires_grad_()
        for name in names
    ]


def modulated(x, y, gate, scale, shift):
    rows = TokenRows.of(torch.tensor([[0, 1, 1, 0]]), 2)
    stream, out = adaptive_norm(x, y, gate=gate, scale=scale, shift=shift, rows=rows)
    return stream.sum() + out.square().sum()


def rotated(q, k, q_weight, k_weight):
    norm = QKNorm("rms_across_heads", q_weight[0], k_weight[1])
    return sum(t.square().sum() for t in qk_norm_rope(q, k, norm, Rope.make(GRID, (2, 2, 0)), grid=GRID))


CALLS = [(modulated, ("x", "y", "gate", "scale", "shift")), (rotated, ("q", "k", "q_weight", "k_weight"))]


@pytest.mark.parametrize(("call", "names"), CALLS)
def test_value_and_gradients_are_those_of_the_registered_operator(call, names, monkeypatch):
    given = leaves(*names)
    value = call(*given)
    found = torch.autograd.grad(value, given)
    monkeypatch.setattr(operator, "_compiling", lambda: True)
    registered = call(*given)
    assert value == registered
    for mine, theirs in zip(found, torch.autograd.grad(registered, given), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(("call", "names"), CALLS)
def test_what_is_frozen_gets_no_gradient_and_nothing_is_kept_without_any(call, names):
    given = leaves(*names)
    for frozen in given[1:]:
        frozen.requires_grad_(False)
    call(*given).backward()
    assert given[0].grad is not None and all(t.grad is None for t in given[1:])
    with torch.no_grad():
        assert call(*given).grad_fn is None
    assert call(*(t.detach() for t in given)).grad_fn is None


@pytest.mark.parametrize(("call", "names"), CALLS)
def test_inference_mode_gives_the_same_value(call, names):
    given = leaves(*names)
    with torch.inference_mode():
        value = call(*given)
    assert value.is_inference() and value == call(*given)


def test_tables_of_a_rotation_get_no_gradient():
    q, k, *_ = leaves(*CALLS[1][1])
    rope = Rope.make(GRID, (2, 2, 0))
    for table in rope.tables:
        table.requires_grad_()
    sum(t.square().sum() for t in qk_norm_rope(q, k, None, rope, grid=GRID)).backward()
    assert q.grad is not None and all(table.grad is None for table in rope.tables)


@pytest.mark.parametrize(("call", "names"), CALLS)
def test_recomputation_gives_the_same_gradient(call, names):
    given = leaves(*names)
    expected = torch.autograd.grad(call(*given), given)
    for reentrant in (False, True):
        for leaf in given:
            leaf.grad = None
        checkpoint(call, *given, use_reentrant=reentrant).backward()
        assert all(torch.equal(leaf.grad, right) for leaf, right in zip(given, expected, strict=True))


def test_a_second_derivative_is_refused():
    x, y = leaves("x", "y")
    (first,) = torch.autograd.grad(adaptive_norm(x, y)[1].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="adaptive_norm_backward: there is no second derivative"):
        first.sum().backward()


def test_modes_see_the_operator():
    class Seen(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.names.append(str(function))
            return function(*args, **(kwargs or {}))

    x, y = leaves("x", "y")
    with Seen() as seen:
        adaptive_norm(x, y)[1].sum().backward()
    assert {"phys4d.adaptive_norm.default", "phys4d.adaptive_norm_backward.default"} <= set(seen.names)
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        x = torch.empty(1, 4, 8, requires_grad=True)
        out = adaptive_norm(x, torch.empty(1, 4, 8))[1]
        (gradient,) = torch.autograd.grad(out.sum(), x)
        assert out.shape == gradient.shape == x.shape


def test_a_profiler_names_the_operator():
    x, y = leaves("x", "y")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        adaptive_norm(x, y)[1].sum().backward()
    assert {"phys4d::adaptive_norm", "phys4d::adaptive_norm_backward"} <= {e.key for e in profile.key_averages()}


def test_the_schema_is_not_read_in_a_call(monkeypatch):
    """Reading it argument by argument is what makes the registered gradient dear."""
    x, y = leaves("x", "y")
    read = []
    fill = torch._library.utils.fill_defaults
    monkeypatch.setattr(torch._library.utils, "fill_defaults", lambda *args: read.append(args) or fill(*args))
    adaptive_norm(x, y)[1].sum().backward()
    assert not read
    op(x, y, *(None,) * 10, "layer", 1e-6)[1].sum().backward()
    assert read
