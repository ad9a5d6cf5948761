"""Norm and rotation by native code: beside torch's operators, bits, layouts, and what it leaves to them."""

import importlib

import pytest
import torch

from phys4d.kernels import native
from phys4d.kernels.elementwise import Rope, norm_rope

FLOAT, HALF = torch.float32, torch.bfloat16
GRID = (3, 4, 5)
serving = importlib.import_module("phys4d.kernels.elementwise.norm_rope_native")
pytestmark = pytest.mark.skipif(not native.status()[0], reason=native.status()[1])


def drawn(kind, layout, dtype=FLOAT, heads=3, dim=28, begin=0, count=60, seed=0, batch=2):
    """The arguments of norm_rope; x is the middle of fused queries, keys and values, every time table longer."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, count, 3, heads, dim, generator=generator).to(dtype)[:, :, 1].requires_grad_()
    numbers = heads * dim if kind == "rms_across_heads" else dim
    weight, bias = (torch.randn(numbers, generator=generator).to(dtype).requires_grad_() for _ in range(2))
    first = dim // 2 // 2 * 2
    channels = (first, dim - first, 0) if layout == "half" else (first, 2, 2 * (dim > first + 4))
    rope = Rope.make((7, 6, 5), channels, layout=layout) if layout else None
    return x, weight if kind else None, bias if kind == "layer" else None, kind, 1e-6, rope, GRID, begin


def results(arguments, through=None):
    """Result, and gradients of its weighted sum; through: what makes a view of the result first."""
    y = norm_rope(*arguments)
    seen = through(y) if through else y
    dy = torch.randn(seen.shape, generator=torch.Generator().manual_seed(7)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(seen, [t for t in arguments[:3] if t is not None], dy)]


def by_definition(arguments, through=None):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "serves", lambda x: False)
        return results(arguments, through)


def close(found, wanted, tolerance):
    for number, (one, two) in enumerate(zip(found, wanted, strict=True)):
        assert one.dtype == two.dtype and one.shape == two.shape and one.is_contiguous()
        error = (one.double() - two.double()).abs().max()
        assert one.isfinite().all() and error <= tolerance * two.double().abs().max(), f"result {number}: {error:.2e}"


@pytest.mark.parametrize("kind", ["rms", "layer", "rms_across_heads", None])
@pytest.mark.parametrize("layout", ["interleaved", "half", None])
@pytest.mark.parametrize("begin", [0, -7, 11], ids=lambda begin: f"from {begin}")
@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=str)
def test_it_agrees_with_torchs_operators(kind, layout, begin, dtype):
    """Text before the video, text behind it, and a part of the video."""
    case = drawn(kind, layout, dtype, begin=begin)
    close(results(case), by_definition(case), 2e-6 if dtype == FLOAT else 8e-3)


@pytest.mark.parametrize("kind", ["rms", "layer", "rms_across_heads"])
def test_every_width_of_a_head(kind):
    for dim in (*range(4, 72, 2), 256):
        for heads in (1, 2, 5):
            case = drawn(kind, "interleaved", heads=heads, dim=dim, seed=dim)
            close(results(case), by_definition(case), 4e-6)


@pytest.mark.parametrize("kind", ["layer", "rms_across_heads"])
@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=str)
def test_threads_change_no_bit_and_nothing_is_read_before_it_is_written(kind, dtype):
    """Many segments of tokens, of which the last is short."""
    case = drawn(kind, "interleaved", dtype, batch=5, heads=8, dim=64, count=437)
    before, found = torch.get_num_threads(), []
    torch.use_deterministic_algorithms(True)  # fresh memory is not a number
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(results(case))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(before)
    for one, two, three in zip(*found, strict=True):
        assert one.isfinite().all() and torch.equal(one, two) and torch.equal(one, three)
    close(found[0], by_definition(case), 2e-5 if dtype == FLOAT else 2e-2)


def test_gradients_and_tokens_that_are_views():
    """Attention hands back heads before tokens; a clip that is given to all has no stride between clips."""
    x, *rest = drawn("rms_across_heads", "half")
    x = x.detach()[:1].expand(4, -1, -1, -1).requires_grad_()
    for through in (lambda y: y.transpose(1, 2), lambda y: y.sum(), lambda y: y[..., ::2]):
        case = (x, *rest)
        close(results(case, through), by_definition(case, through), 4e-6)


def test_frozen_weights_get_no_gradient():
    x, weight, bias, *rest = drawn("layer", "interleaved")
    y = norm_rope(x, weight.detach(), bias.detach(), *rest)
    (dx,) = torch.autograd.grad(y.sum(), [x])
    case = (x, weight, bias, *rest)
    assert torch.equal(dx, torch.autograd.grad(norm_rope(*case).sum(), [x])[0])


def test_no_tokens():
    found = results(drawn("layer", "interleaved", count=0))
    assert [t.shape for t in found] == [(2, 0, 3, 28), (2, 0, 3, 28), (28,), (28,)]
    assert not any(t.any() for t in found)


def test_what_is_not_a_number_stays_so():
    x = torch.ones(1, 3, 2, 4)
    x[0, 1, 1, 2], x[0, 2, 0, 3] = torch.nan, torch.inf
    y = norm_rope(x, torch.ones(8), None, "rms_across_heads", 1e-6, None, (3, 1, 1))
    assert y[0, 0].isfinite().all() and y[0, 1].isnan().all() and y[0, 2, 0, 3].isnan()


def test_what_it_does_not_serve_is_left_to_torch(monkeypatch):
    x = torch.zeros(1, 1, 2, 4)
    assert serving.serves(x) and serving.serves(x.to(HALF))
    wide = torch.zeros(1, 1, 2, serving.WIDEST)
    assert not any(serving.serves(one) for one in (x.half(), x.double(), wide))
    case = drawn("rms", "half")
    here = results(case)
    monkeypatch.setattr(native, "status", lambda: (False, "not built: a test says so"))
    assert not serving.serves(x)
    close(here, results(case), 2e-6)


def test_the_native_operator_refuses_what_does_not_fit():
    x, table, operator = torch.zeros(1, 4, 2, 8), torch.zeros(3, 2, 2), torch.ops.phys4d.native_norm_rope
    rest = False, [4, 1, 1], 0
    with pytest.raises(RuntimeError, match="float32 or bfloat16 only"):
        operator(x.half(), None, None, 0, 0.0, None, None, None, *rest)
    with pytest.raises(RuntimeError, match="channels that are normed together"):
        operator(x, torch.zeros(16), None, 1, 0.0, None, None, None, *rest)
    with pytest.raises(RuntimeError, match="shorter than the grid"):
        operator(x, None, None, 0, 0.0, table, table, table, *rest)
    with pytest.raises(RuntimeError, match="do not fit the heads"):
        operator(x, None, None, 0, 0.0, table, table, table, False, [3, 1, 1], 0)
