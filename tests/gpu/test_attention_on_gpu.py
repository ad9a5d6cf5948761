"""Attention and norm + rotation on a GPU, at the shapes they are for: what the interpreter is too slow to show."""

import pytest
import torch

from phys4d.benchmarks.attention_truth import sampled_truth
from phys4d.benchmarks.cases import ATTENTION, NORM_ROPE
from phys4d.kernels.attention import Full, Spatial, Temporal, Window, attention, attention_reference
from phys4d.kernels.elementwise import QKNorm, Rope, norm_rope, norm_rope_reference

pytestmark = [pytest.mark.gpu, pytest.mark.slow]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def tensors(shape, dtype, number=4, seed=0):
    generator = torch.Generator(device="cuda").manual_seed(seed)
    return [torch.randn(shape, generator=generator, device="cuda", dtype=dtype) for _ in range(number)]


def worst(found, expected):
    return float((found.detach().double() - expected.double()).abs().max())


def gradients(q, k, v, dout, **asked):
    leaves = [t.detach().requires_grad_() for t in (q, k, v)]
    out = attention(*leaves, **asked)
    return out.detach(), torch.autograd.grad(out, leaves, dout)


@pytest.mark.parametrize("case", ATTENTION, ids=lambda case: case.name)
def test_named_cases_err_at_most_twice_as_much_as_torch(case):
    q, k, v, dout = tensors((case.batch, case.tokens, case.heads, case.dim), torch.bfloat16)
    text = (case.words, "first") if case.words else None
    asked = {"grid": case.grid, "pattern": case.pattern, "text": text}
    weights = tensors((case.dim,), torch.bfloat16, 2, seed=1) if case.lanes else []
    if case.lanes:
        asked |= {"qk_norm": QKNorm("rms", *weights), "rope": Rope.make(case.grid, case.lanes, device="cuda")}
    queries = torch.randperm(case.tokens, device="cuda")[:64].sort().values
    truth = sampled_truth(case, q, k, v, *weights, queries=queries)
    out, (dq, dk, dv) = gradients(q, k, v, dout, backend="triton", **asked)
    for tensor in (out, dq, dk, dv):
        assert tensor.isfinite().all()
    peer = "flex" if isinstance(case.pattern, Window) else "sdpa"  # a mask of all pairs would not fit
    own, own_gradients = gradients(q, k, v, dout, backend=peer, **asked)
    assert worst(out[:, queries], truth) <= 2 * worst(own[:, queries], truth)
    # Gradients: the sum of squares of the difference to torch's is that of two independent roundings of one truth.
    for name, mine, theirs in zip("qkv", (dq, dk, dv), own_gradients, strict=True):
        difference = (mine.float() - theirs.float()).norm() / theirs.float().norm()
        assert difference < 0.02, f"d{name}: {difference:.1e} from {peer}'s"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [16, 48, 64, 72, 80, 96, 128, 160, 256])
@pytest.mark.parametrize("pattern", [Full(), Spatial(), Temporal(), Temporal(causal=True), Window(3, 5, 4)])
def test_every_pattern_dtype_and_head_dimension(pattern, dim, dtype):
    grid = (7, 13, 11)
    q, k, v, dout = tensors((1, 1001 + 5, 2, dim), dtype)
    asked = {"grid": grid, "pattern": pattern, "text": (5, "first")}
    exact = [t.double().requires_grad_() for t in (q, k, v)]
    truth, _ = attention_reference(*exact, **asked)
    expected = torch.autograd.grad(truth, exact, dout.double())
    out, found = gradients(q, k, v, dout, backend="triton", **asked)
    own, own_found = gradients(q, k, v, dout, backend="sdpa", **asked)
    assert worst(out, truth) <= 2 * worst(own, truth)
    for mine, theirs, right in zip(found, own_found, expected, strict=True):
        assert worst(mine, right) <= 2 * worst(theirs, right)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("layout", "dim"), [(None, 72), ("interleaved", 72), ("half", 64), ("half", 72)])
@pytest.mark.parametrize("kind", [None, "rms", "layer", "rms_across_heads"])
@pytest.mark.parametrize("pattern", [Full(), Spatial(), Temporal(), Temporal(causal=True), Window(3, 5, 4)])
def test_every_pattern_norm_rotation_and_dtype(pattern, kind, layout, dim, dtype):
    """In the loads or before them, beside torch's attention after our norm and rotation."""
    grid = (7, 13, 11)
    q, k, v, dout = tensors((1, 1001, 2, dim), dtype)
    width = 2 * dim if kind == "rms_across_heads" else dim
    weights = tensors((width,), dtype, {None: 0, "layer": 4}.get(kind, 2), seed=1)
    rope = Rope.make(grid, (dim // 2, dim // 4, dim // 4), layout=layout, device="cuda") if layout else None

    def run(dtype, backend):
        leaves = [t.detach().to(dtype).requires_grad_() for t in (q, k, v, *weights)]
        norm = QKNorm(kind, *leaves[3:]) if kind else None
        out = attention(*leaves[:3], grid=grid, pattern=pattern, qk_norm=norm, rope=rope, backend=backend)
        return out.detach(), torch.autograd.grad(out, leaves, dout.to(dtype))

    truth, expected = run(torch.float64, "reference")
    (out, found), (own, own_found) = run(dtype, "triton"), run(dtype, "sdpa")
    assert out.isfinite().all() and worst(out, truth) <= 2 * worst(own, truth)
    for mine, theirs, right in zip(found, own_found, expected, strict=True):
        assert (mine.double() - right).norm() <= 2 * (theirs.double() - right).norm()


@pytest.mark.parametrize("frames", [2, 7, 16, 33, 64, 100, 128])
def test_seventy_thousand_and_one_rows(frames):
    q, k, v, dout = tensors((1, frames * 70_001, 1, 16), torch.bfloat16)
    asked = {"grid": (frames, 70_001, 1), "pattern": Temporal()}
    out, found = gradients(q, k, v, dout, backend="triton", **asked)
    own, own_found = gradients(q, k, v, dout, backend="sdpa", **asked)
    exact = [t.double().requires_grad_() for t in (q, k, v)]
    truth = attention(*exact, backend="sdpa", **asked)
    expected = torch.autograd.grad(truth, exact, dout.double())
    assert worst(out, truth) <= 2 * worst(own, truth)
    for mine, theirs, right in zip(found, own_found, expected, strict=True):
        assert worst(mine, right) <= 2 * worst(theirs, right)


def test_addresses_beyond_two_to_the_thirty_first():
    """The last head of a long fused tensor begins beyond 2^31 numbers: 70,000 tokens of 3 x 96 heads of 128 lanes."""
    fused = torch.zeros((1, 70_000, 3, 96, 128), device="cuda", dtype=torch.bfloat16)
    q, k, v = fused.unbind(2)
    for tensor in (q, k, v):
        tensor[:, :, -1] = torch.randn(70_000, 128, device="cuda", dtype=torch.bfloat16)
    asked = {"grid": (16, 4375, 1), "pattern": Temporal(), "backend": "triton"}
    whole = attention(q, k, v, **asked)[:, :, -1:]
    alone = attention(*(t[:, :, -1:].contiguous() for t in (q, k, v)), **asked)
    assert torch.equal(whole, alone)


@pytest.mark.parametrize("pattern", [Full(), Spatial(), Temporal(), Window(3, 5, 4)])
def test_two_runs_are_bit_equal(pattern):
    q, k, v, dout = tensors((2, 7 * 13 * 11, 8, 64), torch.bfloat16)
    asked = {"grid": (7, 13, 11), "pattern": pattern, "backend": "triton"}
    one, two = (gradients(q, k, v, dout, **asked) for _ in range(2))
    for first, second in zip((one[0], *one[1]), (two[0], *two[1]), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", NORM_ROPE, ids=lambda case: case.name)
def test_norm_and_rotation_at_full_size(case, dtype):
    x, dy = tensors((1, case.tokens, case.heads, case.dim), dtype, 2)
    lanes = case.heads * case.dim if case.kind == "rms_across_heads" else case.dim
    weight = torch.rand(lanes, device="cuda").to(dtype)
    bias = torch.rand(lanes, device="cuda").to(dtype) if case.kind == "layer" else None
    rope = Rope.make(case.grid, case.lanes, layout=case.layout, device="cuda")
    rest = (case.kind, 1e-6, rope, case.grid, -case.words)
    results = []
    for function, kind in ((norm_rope, dtype), (norm_rope_reference, dtype), (norm_rope_reference, torch.float64)):
        leaves = [t.to(kind).detach().requires_grad_() for t in (x, weight, bias) if t is not None]
        y = function(leaves[0], leaves[1], leaves[2] if bias is not None else None, *rest)
        results.append((y, *torch.autograd.grad(y, leaves, dy.to(kind))))
    for mine, eager, truth in zip(*results, strict=True):
        assert worst(mine, truth) <= 2 * worst(eager, truth) + 1e-7 * float(truth.abs().max())
