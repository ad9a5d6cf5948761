"""The Triton kernels of attention: against the definition in float64, in the interpreter or on a GPU."""

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
    attention_packed,
    attention_reference,
    short_rows,
)
from phys4d.kernels.attention.patterns import allowed
from phys4d.kernels.attention.qk_transform import NO_TRANSFORM

pytestmark = pytest.mark.interpreted

GRID = (3, 2, 5)


@pytest.fixture(autouse=True)
def long_rows(request, monkeypatch):
    """Full and spatial attention by the kernels of long rows; short ones have a file of their own."""
    pattern = getattr(getattr(request.node, "callspec", None), "params", {}).get("pattern")
    if isinstance(pattern, Full | Spatial):
        monkeypatch.setattr(short_rows, "LONGEST", 0)


PATTERNS = [Full(), Spatial(), Temporal(), Temporal(causal=True), Window(2, 2, 3)]
TEXTS = [None, (3, "first"), (2, "last")]


def inputs(device, grid=GRID, text=None, batch=2, heads=2, dim=16, dtype=torch.float32, seed=0):
    """q, k, v, dout: [B, S, heads, D], leaves."""
    count = math.prod(grid) + (text[0] if text else 0)
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(batch, count, heads, dim, generator=generator).to(device, dtype) for _ in range(4)]
    return [t.requires_grad_() for t in made[:3]], made[3]


def truth(qkv, dout, dlse=None, **asked):
    """out, lse and the gradients of q, k, v in float64."""
    exact = [t.detach().double().requires_grad_() for t in qkv]
    out, lse = attention_reference(*exact, **asked)
    loss = (out * dout.double()).sum()
    if dlse is not None:
        loss = loss + (torch.where(lse.isfinite(), lse, 0) * dlse.double()).sum()
    return out.detach(), lse.detach(), torch.autograd.grad(loss, exact)


def ours(qkv, dout, dlse=None, **asked):
    out, lse = attention(*qkv, backend="triton", return_lse=True, **asked)
    loss = (out.float() * dout.float()).sum()
    if dlse is not None:
        loss = loss + (torch.where(lse.isfinite(), lse, 0) * dlse).sum()
    return out.detach(), lse.detach(), torch.autograd.grad(loss, qkv)


def torchs_own(qkv, dout, mask):
    """out and gradients by torch SDPA in the same dtype, with the pattern as a mask [S, S]."""
    q, k, v = (t.transpose(1, 2) for t in qkv)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
    return out.detach(), torch.autograd.grad(out, qkv, dout)


def worst(found, expected):
    return (found.double() - expected).abs().max().item()


def error(found, expected):
    """Of all numbers together: the worst of so few is a lottery, different on every machine."""
    return (found.double() - expected).norm().item()


@pytest.mark.parametrize("padded", [pytest.param(False, marks=[pytest.mark.slow]), True])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_with_text_and_padding(pattern, text, padded, device):
    qkv, dout = inputs(device, text=text)
    lengths = torch.tensor([qkv[0].shape[1] - 4, 3], device=device) if padded else None
    dlse = torch.randn(2, 2, qkv[0].shape[1], generator=torch.Generator().manual_seed(9)).to(device)
    asked = {"grid": GRID, "pattern": pattern, "text": text, "key_lengths": lengths, "scale": 0.3}
    out, lse, gradients = truth(qkv, dout, dlse, **asked)
    found, found_lse, found_gradients = ours(qkv, dout, dlse, **asked)
    assert worst(found, out) < 2e-6
    assert torch.equal(found_lse.isfinite(), lse.isfinite())
    assert worst(found_lse[lse.isfinite()], lse[lse.isfinite()]) < 2e-6
    for name, mine, exact in zip("qkv", found_gradients, gradients, strict=True):
        assert worst(mine, exact) < 5e-6, name


@pytest.mark.parametrize(
    "dim", [pytest.param(16, marks=pytest.mark.slow), 40, 64, 72, pytest.param(80, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("pattern", [Full(), Spatial(), Temporal(), Window(3, 2, 2)])
def test_error_is_at_most_twice_torchs_own(pattern, dtype, dim, device):
    qkv, dout = inputs(device, dim=dim, dtype=dtype, batch=1)
    mask = allowed(pattern, GRID, device=device)
    out, _, gradients = truth(qkv, dout, grid=GRID, pattern=pattern)
    own, own_gradients = torchs_own(qkv, dout, mask)
    found, _, found_gradients = ours(qkv, dout, grid=GRID, pattern=pattern)
    assert found.dtype == dtype
    assert error(found, out) <= 2 * error(own, out)
    for name, mine, theirs, exact in zip("qkv", found_gradients, own_gradients, gradients, strict=True):
        assert mine.dtype == dtype and error(mine, exact) <= 2 * error(theirs, exact), name


@pytest.mark.parametrize(
    ("pattern", "grid"),
    [
        (Temporal(), (7, 13, 3)),
        (Temporal(causal=True), (1, 1, 1)),
        (Temporal(), (2, 5, 1)),
        (Temporal(causal=True), (33, 1, 2)),
        (Temporal(causal=True), (131, 1, 1)),
        pytest.param(Spatial(), (2, 13, 11), marks=pytest.mark.slow),
        (Spatial(), (5, 1, 1)),
        (Window(1, 1, 1), (3, 4, 3)),
        pytest.param(Window(3, 5, 7), (3, 5, 7), marks=pytest.mark.slow),
        (Window(2, 7, 1), (4, 9, 3)),
        (Full(), (1, 1, 1)),
    ],
)
def test_odd_shapes(pattern, grid, device):
    qkv, dout = inputs(device, grid=grid, batch=1, heads=3, dim=24)
    out, _, gradients = truth(qkv, dout, grid=grid, pattern=pattern)
    found, _, found_gradients = ours(qkv, dout, grid=grid, pattern=pattern)
    assert worst(found, out) < 2e-6
    for mine, exact in zip(found_gradients, gradients, strict=True):
        assert worst(mine, exact) < 5e-6


@pytest.mark.parametrize(("queries", "keys"), [(1, 70), (45, 3), (33, 65)])
def test_full_attention_may_cross(queries, keys, device):
    generator = torch.Generator().manual_seed(3)
    q, k, v, dout = (torch.randn(2, n, 2, 16, generator=generator).to(device) for n in (queries, keys, keys, queries))
    qkv = [t.requires_grad_() for t in (q, k, v)]
    out, _, gradients = truth(qkv, dout)
    found, _, found_gradients = ours(qkv, dout)
    assert worst(found, out) < 2e-6
    for mine, exact in zip(found_gradients, gradients, strict=True):
        assert worst(mine, exact) < 5e-6


@pytest.mark.parametrize("pattern", PATTERNS)
def test_strides_do_not_matter(pattern, device):
    generator = torch.Generator().manual_seed(1)
    packed = torch.randn(2, 30, 3, 2, 24, generator=generator).to(device)
    sliced = [t.detach().requires_grad_() for t in packed.unbind(2)]
    heads_first = [t.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for t in sliced]
    dout = torch.randn(2, 2, 30, 24, generator=generator).to(device).transpose(1, 2)
    assert not sliced[0].is_contiguous() and not heads_first[0].is_contiguous()
    one = ours(sliced, dout, grid=GRID, pattern=pattern)
    two = ours(heads_first, dout, grid=GRID, pattern=pattern)
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    for mine, other in zip(one[2], two[2], strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("text", [None, pytest.param((3, "last"), marks=pytest.mark.slow)])
@pytest.mark.parametrize("pattern", [*PATTERNS[:2], pytest.param(PATTERNS[2], marks=pytest.mark.slow), *PATTERNS[3:]])
def test_every_element_is_written_and_two_runs_are_bit_equal(pattern, text, device):
    qkv, dout = inputs(device, text=text)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # also fills whatever torch.empty returns with NaN
    try:
        assert torch.empty(3, device=device).isnan().all()
        runs = [ours(qkv, dout, grid=GRID, pattern=pattern, text=text) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(before)
    for one, two in zip((*runs[0][:2], *runs[0][2]), (*runs[1][:2], *runs[1][2]), strict=True):
        assert torch.equal(one, two) and one.isfinite().all()


@pytest.mark.parametrize("pattern", [*PATTERNS[:2], pytest.param(PATTERNS[2], marks=pytest.mark.slow), *PATTERNS[3:]])
def test_padding_is_not_even_read(pattern, device):
    qkv, dout = inputs(device, text=(2, "first"))
    lengths = torch.tensor([32, 9], device=device)
    asked = {"grid": GRID, "pattern": pattern, "text": (2, "first"), "key_lengths": lengths}
    clean = ours(qkv, dout, **asked)
    dirty = [t.detach().clone() for t in qkv]
    dirty[1][1, 9:], dirty[2][1, 9:] = math.nan, math.inf
    found = ours([t.requires_grad_() for t in dirty], dout, **asked)
    assert torch.equal(found[0], clean[0]) and torch.equal(found[1], clean[1])
    for mine, other in zip(found[2], clean[2], strict=True):
        assert torch.equal(mine, other)
    assert (found[2][1][1, 9:] == 0).all() and (found[2][2][1, 9:] == 0).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_operator_keeps_torchs_contract(pattern, device):
    from phys4d.kernels.attention import ops

    (q, k, v), _ = inputs(device, grid=(2, 2, 3), batch=1, heads=1, dim=16)
    pattern = Window(1, 2, 2) if isinstance(pattern, Window) else pattern
    where = ops.flat_pattern(pattern, (2, 2, 3), None)
    for with_lse in (False, True):
        torch.library.opcheck(ops.attention_op, (q, k, v, *where, None, None, 0.25, with_lse, *NO_TRANSFORM))


def test_compiles_into_one_graph(device):
    qkv, dout = inputs(device)

    def loss(q, k, v):
        return (attention(q, k, v, grid=GRID, pattern=Temporal(), backend="triton") * dout).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(*qkv), qkv)
    for mine, plain in zip(torch.autograd.grad(compiled(*qkv), qkv), expected, strict=True):
        assert torch.equal(mine, plain)


def test_autocast_runs_in_its_dtype(device):
    qkv, _ = inputs(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        out = attention(*qkv, grid=GRID, pattern=Temporal(), backend="triton")
    assert out.dtype == torch.bfloat16
    rounded = [t.detach().bfloat16() for t in qkv]
    assert torch.equal(out, attention(*rounded, grid=GRID, pattern=Temporal(), backend="triton"))


def test_what_the_kernels_do_not_take_is_refused_by_name(device):
    (q, k, v), _ = inputs(device)
    for tensors, scale, message in [
        ((q, k, v), -1.0, "needs a scale above 0"),
        ((q.double(), k.double(), v.double()), None, "not torch.float64"),
        (tuple(torch.zeros(1, 30, 1, 264, device=device) for _ in range(3)), None, "head dimensions up to 256"),
    ]:
        with pytest.raises(ValueError, match=message):
            attention(*tensors, scale=scale, backend="triton")


@pytest.mark.parametrize(
    "pattern", [Temporal(), *(pytest.param(p, marks=pytest.mark.slow) for p in (Spatial(), Window(2, 2, 3)))]
)
def test_the_gradient_of_fused_queries_keys_and_values_is_one_buffer(pattern, device):
    fused = torch.randn(2, 30, 3, 2, 24, generator=torch.Generator().manual_seed(1)).to(device).requires_grad_()
    dout = torch.randn(2, 30, 2, 24, generator=torch.Generator().manual_seed(2)).to(device)
    asked = {"grid": GRID, "pattern": pattern, "backend": "triton"}
    out = attention_packed(fused, **asked)
    apart = attention(*fused.unbind(2), **asked)
    (gradient,) = torch.autograd.grad(out, fused, dout)
    (expected,) = torch.autograd.grad(apart, fused, dout)
    assert torch.equal(out, apart) and torch.equal(gradient, expected) and gradient.is_contiguous()
    from phys4d.kernels.attention import ops

    torch.library.opcheck(
        torch.ops.phys4d.attention_packed.default,
        (fused, *ops.flat_pattern(pattern, GRID, None), None, None, 0.2, True, *NO_TRANSFORM),
    )


@pytest.mark.parametrize("text", [None, pytest.param((40, "first"), marks=[pytest.mark.slow])])
@pytest.mark.parametrize("pattern", [pytest.param(Full(), marks=pytest.mark.slow), Spatial()])
def test_pointers_and_descriptors_give_the_same_bits(pattern, text, device, monkeypatch):
    from phys4d.kernels.attention import hardware

    qkv, dout = inputs(device, grid=(2, 9, 11), text=text, batch=1, dim=72)
    asked = {"grid": (2, 9, 11), "pattern": pattern, "text": text}
    by_descriptors = ours(qkv, dout, **asked)
    monkeypatch.setattr(hardware, "descriptors", lambda *arguments: False)
    by_pointers = ours(qkv, dout, **asked)
    for one, two in zip((*by_descriptors[:2], *by_descriptors[2]), (*by_pointers[:2], *by_pointers[2]), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("pattern", [Full(), Temporal(), Window(2, 3, 3)])
def test_float32_heads_of_two_parts_of_128_channels(device, pattern):
    generator = torch.Generator().manual_seed(0)
    q, k, v, dout = (torch.randn(1, 63, 2, 256, generator=generator).to(device) for _ in range(4))
    asked = {"grid": (3, 4, 5), "pattern": pattern, "text": (3, "first")}
    exact = [t.double().requires_grad_() for t in (q, k, v)]
    truth, _ = attention_reference(*exact, **asked)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    out = attention(*leaves, backend="triton", **asked)
    found, expected = torch.autograd.grad(out, leaves, dout), torch.autograd.grad(truth, exact, dout.double())
    for mine, right in zip((out, *found), (truth, *expected), strict=True):
        assert (mine - right).abs().max() <= 3e-6
