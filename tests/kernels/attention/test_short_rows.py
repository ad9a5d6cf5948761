"""Attention over short rows, with norm and rotation inside the kernel: against the definition in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from phys4d.kernels.attention import (
    Full,
    Spatial,
    Temporal,
    Window,
    attention,
    attention_backward,
    attention_packed,
    attention_reference,
    explain,
    ops,
)
from phys4d.kernels.attention.backends import triton
from phys4d.kernels.attention.call import Call
from phys4d.kernels.attention.patterns import allowed
from phys4d.kernels.elementwise import QKNorm, Rope, norm_rope_reference

pytestmark = pytest.mark.interpreted

GRID = (5, 2, 3)


def inputs(device, dim=16, dtype=torch.float32, grid=GRID, batch=2, heads=3):
    """q, k, v, dout [B, S, heads, D], the first three leaves."""
    generator = torch.Generator().manual_seed(5)
    made = [torch.randn(batch, math.prod(grid), heads, dim, generator=generator).to(device, dtype) for _ in range(4)]
    return [t.requires_grad_() for t in made[:3]], made[3]


def norm_of(kind, dim, device, dtype=torch.float32):
    """A norm with trained weights, and these."""
    if kind is None:
        return None, []
    generator = torch.Generator().manual_seed(6)
    count = 4 if kind == "layer" else 2
    weights = [torch.randn(dim, generator=generator).to(device, dtype).requires_grad_() for _ in range(count)]
    return QKNorm(kind, *weights), weights


def rope_of(layout, dim, device, grid=GRID):
    channels = (dim // 2, dim // 4, dim // 4) if layout == "half" else (dim - 12, 4, 4)  # interleaved: four do not turn
    return Rope.make(grid, channels, layout=layout, device=device) if layout else None


def exactly(qkv, norm, rope, grid=GRID, **asked):
    q, k, v = qkv
    kind = norm.kind if norm else ""
    args = [
        (getattr(norm, f"{name}_weight", None), getattr(norm, f"{name}_bias", None), kind, 1e-6, rope, grid, 0)
        for name in "qk"
    ]
    return attention_reference(
        norm_rope_reference(q, *args[0]), norm_rope_reference(k, *args[1]), v, grid=grid, **asked
    )[0]


def doubled(norm, rope):
    """The same in float64, and its weights."""
    if rope is not None:
        time, height, width = (table.double() for table in rope.tables)
        rope = Rope((time, height, width), rope.layout)
    if norm is None:
        return None, rope, []
    found = [norm.q_weight, norm.k_weight, norm.q_bias, norm.k_bias]
    found = [t.detach().double().requires_grad_() for t in found if t is not None]
    return QKNorm(norm.kind, *found), rope, found


def by_torch(qkv, norm, rope, mask, grid=GRID):
    """Norm, rotation and attention as a model writes them: torch's own, each rounded to the dtype."""
    ready = []
    for name, x in zip("qk", qkv, strict=False):
        if norm is not None:
            weight, bias = getattr(norm, f"{name}_weight"), getattr(norm, f"{name}_bias")
            size = (x.shape[-1],)
            x = F.rms_norm(x, size, weight, 1e-6) if norm.kind == "rms" else F.layer_norm(x, size, weight, bias, 1e-6)
        if rope is not None:
            x = norm_rope_reference(x, None, None, "", 0.0, rope, grid, 0)
        ready.append(x.transpose(1, 2))
    return F.scaled_dot_product_attention(*ready, qkv[2].transpose(1, 2), attn_mask=mask).transpose(1, 2)


def worst(found, expected):
    return (found.double() - expected).abs().max().item()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", [None, "layer"])
@pytest.mark.parametrize("pattern", [Full(), Spatial(), Temporal(), Temporal(causal=True)])
def test_rows_of_every_pattern(pattern, kind, padded, device):
    qkv, dout = inputs(device)
    dlse = torch.randn(2, 3, 30, generator=torch.Generator().manual_seed(9)).to(device)
    lengths = torch.tensor([26, 9], device=device) if padded else None
    norm, weights = norm_of(kind, 16, device)
    rope = rope_of("interleaved", 16, device) if kind else None
    _, exact_rope, exact_weights = doubled(norm, rope)
    exact = [t.detach().double().requires_grad_() for t in qkv]
    asked = {"pattern": pattern, "key_lengths": lengths}
    ready = exact[:2]
    if kind:
        ready = [
            norm_rope_reference(t, *w, kind, 1e-6, exact_rope, GRID, 0)
            for t, w in zip(exact[:2], (exact_weights[::2], exact_weights[1::2]), strict=True)
        ]
    truth, truth_lse = attention_reference(*ready, exact[2], grid=GRID, **asked)
    seen = truth_lse.isfinite()
    loss = (truth * dout.double()).sum() + (torch.where(seen, truth_lse, 0) * dlse.double()).sum()
    expected = torch.autograd.grad(loss, [*exact, *exact_weights])
    assert triton.kernel_name(Call(*qkv, GRID, pattern, None, lengths, None, True)) == "short_rows"
    out, lse = attention(*qkv, grid=GRID, qk_norm=norm, rope=rope, return_lse=True, backend="triton", **asked)
    assert worst(out, truth) < 5e-6 and torch.equal(lse.isfinite(), seen) and worst(lse[seen], truth_lse[seen]) < 5e-6
    loss = (out * dout).sum() + (torch.where(seen, lse, 0) * dlse).sum()
    for mine, right in zip(torch.autograd.grad(loss, [*qkv, *weights]), expected, strict=True):
        assert worst(mine, right) < 5e-6 * max(1.0, right.abs().max().item())


def test_gradients_of_a_part_of_the_keys_are_those_of_the_whole(device):
    """A ring passes keys in parts, out and lse being over all of them: then rows do not stand alone."""
    (q, k, v), dout = inputs(device)
    out, lse = attention(q, k, v, return_lse=True, backend="reference")
    expected = torch.autograd.grad(out, (q, k, v), dout)
    parts = [slice(0, 15), slice(15, 30)]
    found = [attention_backward(q[:, :15], k[:, p], v[:, p], out[:, :15], lse[..., :15], dout[:, :15]) for p in parts]
    assert worst(found[0][0] + found[1][0], expected[0][:, :15]) < 5e-6
    rest = [attention_backward(q[:, 15:], k[:, p], v[:, p], out[:, 15:], lse[..., 15:], dout[:, 15:]) for p in parts]
    for place in (1, 2):
        whole = torch.cat([one[place] + two[place] for one, two in zip(found, rest, strict=True)], dim=1)
        assert worst(whole, expected[place]) < 5e-6


def test_text_is_normed_and_stops_only_a_rotation(device):
    qkv, _ = inputs(device)
    norm, _ = norm_of("rms", 16, device)
    asked = {"grid": (7, 2, 2), "text": (2, "last"), "qk_norm": norm}
    rope = Rope.make((7, 2, 2), (16, 0, 0), device=device)
    for rotation, expected in ((None, True), (rope, False)):
        assert explain(*qkv, **asked, rope=rotation, backend="triton").fused_transform == expected
        found, right = (attention(*qkv, **asked, rope=rotation, backend=name) for name in ("triton", "reference"))
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("kind", "layout", "dim"),
    [
        ("rms", None, 40), ("layer", None, 16),
        (None, "interleaved", 80), ("rms", "interleaved", 72), ("layer", "interleaved", 64),
        (None, "half", 16), ("rms", "half", 64), ("layer", "half", 32),
    ],
)  # fmt: skip
def test_error_is_at_most_twice_torchs_own(kind, layout, dim, dtype, device):
    """The worst of out; of gradients, whose worst lies in the one token that a norm enlarges most, all together."""
    qkv, dout = inputs(device, dim, dtype)
    norm, weights = norm_of(kind, dim, device, dtype)
    rope = rope_of(layout, dim, device)
    leaves = [*qkv, *weights]
    exact_norm, exact_rope, exact_weights = doubled(norm, rope)
    exact = [t.detach().double().requires_grad_() for t in qkv]
    truth = exactly(exact, exact_norm, exact_rope, pattern=Temporal())
    gradients = torch.autograd.grad(truth, [*exact, *exact_weights], dout.double())
    own = by_torch(qkv, norm, rope, allowed(Temporal(), GRID, device=device))
    own_gradients = torch.autograd.grad(own, leaves, dout)
    found = attention(*qkv, grid=GRID, pattern=Temporal(), qk_norm=norm, rope=rope, backend="triton")
    found_gradients = torch.autograd.grad(found, leaves, dout)
    assert found.dtype == dtype
    assert worst(found, truth) <= 2 * worst(own, truth)
    groups = [[0], [1], [2], list(range(3, len(leaves)))]  # the weights are a few numbers only
    for group in groups[: 4 if weights else 3]:
        mine, theirs, right = (
            torch.cat([some[place].double().flatten() for place in group])
            for some in (found_gradients, own_gradients, gradients)
        )
        assert (mine - right).norm() <= 2 * (theirs - right).norm(), group
    assert all(t.dtype == dtype for t in found_gradients)


@pytest.mark.parametrize("grid", [(1, 1, 1), (7, 13, 1), (2, 1, 5), (16, 3, 2), (33, 1, 2)])
@pytest.mark.parametrize("causal", [False, True])
def test_odd_shapes(causal, grid, device):
    qkv, dout = inputs(device, 24, grid=grid, batch=1)
    norm, weights = norm_of("layer", 24, device)
    rope = Rope.make(grid, (8, 6, 10), device=device)
    exact_norm, exact_rope, exact_weights = doubled(norm, rope)
    exact = [t.detach().double().requires_grad_() for t in qkv]
    pattern = Temporal(causal=causal)
    truth = exactly(exact, exact_norm, exact_rope, grid, pattern=pattern)
    gradients = torch.autograd.grad(truth, [*exact, *exact_weights], dout.double())
    found = attention(*qkv, grid=grid, pattern=pattern, qk_norm=norm, rope=rope, backend="triton")
    assert worst(found, truth) < 5e-6
    for mine, right in zip(torch.autograd.grad(found, [*qkv, *weights], dout), gradients, strict=True):
        assert worst(mine, right) < 5e-6 * max(1.0, right.abs().max().item())


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_padding_is_not_even_read_and_every_element_is_written(kind, epsilon, device):
    qkv, dout = inputs(device)
    norm, weights = norm_of(kind, 16, device)
    norm = QKNorm(kind, *weights, epsilon=epsilon)
    asked = {"grid": GRID, "pattern": Temporal(), "qk_norm": norm, "rope": rope_of("interleaved", 16, device)}
    asked |= {"key_lengths": torch.tensor([30, 9], device=device), "backend": "triton", "return_lse": True}

    def run(q, k, v):
        out, lse = attention(q, k, v, **asked)
        return [out, lse, *torch.autograd.grad((out * dout).sum() + lse.sin().sum(), [q, k, v, *weights])]

    dirty = [t.detach().clone() for t in qkv]
    dirty[1][1, 9:], dirty[2][1, 9:] = math.nan, math.inf
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # also fills whatever torch.empty returns with NaN
    try:
        runs = [run(*qkv), run(*[t.requires_grad_() for t in dirty])]
    finally:
        torch.use_deterministic_algorithms(before)
    for clean, found in zip(*runs, strict=True):
        assert clean.isfinite().all() and torch.equal(clean, found)


def test_the_operator_keeps_torchs_contract(device):
    (q, k, v), _ = inputs(device, grid=(2, 2, 1), batch=1, heads=1)
    _, weights = norm_of("layer", 16, device)
    tables = list(rope_of("half", 16, device).tables)
    assert len(weights) == 4
    where = (*ops.flat_pattern(Temporal(), (2, 2, 1), None), None, 0.25)
    for with_lse in (False, True):
        rest = (*where, with_lse, *weights, tables, "layer", 1e-6, "half")
        torch.library.opcheck(ops.attention_op, (q, k, v, *rest))
        fused = torch.stack([q, k, v], dim=2).detach().requires_grad_()
        torch.library.opcheck(torch.ops.phys4d.attention_packed.default, (fused, *rest))


def test_compiles_into_one_graph_and_frozen_weights_get_no_gradient(device):
    qkv, dout = inputs(device)
    norm, weights = norm_of("rms", 16, device)
    rope = rope_of("interleaved", 16, device)

    def loss(q, k, v):
        out = attention(q, k, v, grid=GRID, pattern=Temporal(), qk_norm=norm, rope=rope, backend="triton")
        return (out * dout).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    leaves = [*qkv, *weights]
    expected = torch.autograd.grad(loss(*qkv), leaves)
    for mine, plain in zip(torch.autograd.grad(compiled(*qkv), leaves), expected, strict=True):
        assert torch.equal(mine, plain)
    for weight in weights:
        weight.requires_grad_(False)
    torch.compiler.reset()
    for mine, plain in zip(torch.autograd.grad(loss(*qkv), qkv), expected, strict=False):
        assert torch.equal(mine, plain)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_the_gradient_of_fused_queries_keys_and_values_is_one_buffer(kind, device):
    fused = torch.randn(2, 30, 3, 2, 24, generator=torch.Generator().manual_seed(1)).to(device).requires_grad_()
    dout = torch.randn(2, 30, 2, 24, generator=torch.Generator().manual_seed(2)).to(device)
    norm, weights = norm_of(kind, 24, device)
    asked = {"grid": GRID, "pattern": Temporal(), "qk_norm": norm, "rope": rope_of("interleaved", 24, device)}
    out = attention_packed(fused, **asked, backend="triton")
    apart = attention(*fused.unbind(2), **asked, backend="triton")
    leaves = [fused, *weights]
    gradients, expected = (torch.autograd.grad(result, leaves, dout) for result in (out, apart))
    assert torch.equal(out, apart) and gradients[0].is_contiguous()
    for mine, right in zip(gradients, expected, strict=True):
        assert torch.equal(mine, right)


@pytest.mark.parametrize(
    ("kind", "layout", "dim", "pattern", "expected"),
    [
        ("rms", "interleaved", 72, Temporal(), True),
        ("rms", "interleaved", 72, Spatial(), True),
        ("layer", "interleaved", 40, Full(), True),
        ("layer", "half", 64, Temporal(), True),
        (None, "interleaved", 16, Temporal(), True),
        pytest.param("rms", "half", 72, Temporal(), False, marks=pytest.mark.slow),
        (None, "half", 8, Temporal(), False),
        ("rms_across_heads", None, 16, Temporal(), False),
        ("rms", None, 16, Window(1, 1, 1), False),
    ],
)
def test_explain_tells_whether_and_both_ways_give_the_same(kind, layout, dim, pattern, expected, device):
    qkv, _ = inputs(device, dim)
    size = 3 * dim if kind == "rms_across_heads" else dim
    norm = QKNorm(kind, *[torch.linspace(-1, 2, size, device=device) for _ in range(2)]) if kind else None
    channels = (dim - dim // 4 * 2, dim // 4, dim // 4) if layout == "half" else (dim, 0, 0)
    rope = Rope.make(GRID, channels, layout=layout, device=device) if layout else None
    asked = {"grid": GRID, "pattern": pattern, "qk_norm": norm, "rope": rope}
    choice = explain(*qkv, **asked, backend="triton")
    assert choice.fused_transform == expected and ("norm and rotation inside its kernel" in str(choice)) == expected
    assert not explain(*qkv, **asked, backend="reference").fused_transform
    found = attention(*qkv, **asked, backend="triton")
    torch.testing.assert_close(found, attention(*qkv, **asked, backend="reference"), rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused(device):
    qkv, _ = inputs(device)
    asked = {"grid": GRID, "pattern": Temporal(), "backend": "triton"}
    with pytest.raises(ValueError, match=r"qk_norm rms: expected a contiguous weight \[16\], got \[8\]"):
        attention(*qkv, **asked, qk_norm=QKNorm("rms", torch.ones(8, device=device), torch.ones(16, device=device)))
    with pytest.raises(ValueError, match="rope: the time table has 4 positions, the grid has 5"):
        attention(*qkv, **asked, rope=Rope.make((4, 2, 3), (8, 4, 4), device=device))
    with pytest.raises(ValueError, match="rope: needs the video's grid"):
        explain(*qkv, rope=rope_of("interleaved", 16, device))
