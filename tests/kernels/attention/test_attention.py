"""Attention: every backend against a double-precision loop over queries; refusals; compile."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from phys4d.kernels.attention import (
    Full,
    Spatial,
    Temporal,
    Window,
    allowed,
    attention,
    attention_packed,
    attention_reference,
    explain,
    ops,
)
from phys4d.kernels.attention.qk_transform import NO_TRANSFORM

GRID = (3, 2, 4)
PATTERNS = [Full(), Spatial(), Temporal(), Temporal(causal=True), Window(2, 2, 3)]
TEXTS = [None, (2, "first"), (3, "last")]
BACKENDS = ["reference", "sdpa"]
NAMES = (
    "triton", "sdpa", "sdpa-flash", "sdpa-cudnn", "sdpa-efficient", "sdpa-math", "flash-attn-2", "flash-attn-3",
    "flash-attn-4", "xformers", "natten", "flex", "flex-flash", "reference",
)  # fmt: skip


def tensors(batch=2, queries=24, keys=None, heads=2, dim=8, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = (queries, keys or queries, keys or queries)
    return [torch.randn(batch, s, heads, dim, generator=generator).to(dtype) for s in lengths]


def one_query_at_a_time(q, k, v, mask, scale):
    """Attention in float64 from its formula; mask bool [B, S_q, S_k]."""
    q, k, v = q.double(), k.double(), v.double()
    out = torch.zeros_like(q)
    lse = torch.full((q.shape[0], q.shape[2], q.shape[1]), -math.inf, dtype=torch.float64)
    for b in range(q.shape[0]):
        for i in range(q.shape[1]):
            seen = mask[b, i].nonzero()[:, 0]
            for head in range(q.shape[2]):
                if len(seen):
                    scores = scale * k[b, seen, head] @ q[b, i, head]
                    lse[b, head, i] = scores.exp().sum().log()
                    out[b, i, head] = scores.softmax(0) @ v[b, seen, head]
    return out, lse


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("padded", [False, True])
def test_every_backend_computes_the_formula(pattern, text, padded):
    size = 24 + (text[0] if text else 0)
    q, k, v = tensors(queries=size, dtype=torch.float64)
    lengths = torch.tensor([size - 5, 3]) if padded else None
    mask = allowed(pattern, GRID, text)[None].repeat(2, 1, 1)
    if lengths is not None:
        mask &= torch.arange(size) < lengths[:, None, None]
    out, lse = one_query_at_a_time(q, k, v, mask, scale=0.3)
    asked = {"grid": GRID, "pattern": pattern, "text": text, "key_lengths": lengths, "scale": 0.3}
    for backend in BACKENDS:
        torch.testing.assert_close(attention(q, k, v, backend=backend, **asked), out, rtol=0, atol=1e-12)
    got, got_lse = attention(q, k, v, return_lse=True, **asked)
    torch.testing.assert_close(got, out, rtol=0, atol=1e-12)
    torch.testing.assert_close(got_lse, lse, rtol=0, atol=1e-12)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.sampled_from([1, 4, 7]))
def test_full_attention_may_cross(queries, keys, heads, dim):
    q, k, v = tensors(queries=queries, keys=keys, heads=heads, dim=dim, dtype=torch.float64)
    out, _ = one_query_at_a_time(q, k, v, torch.ones(2, queries, keys, dtype=torch.bool), dim**-0.5)
    for backend in BACKENDS:
        torch.testing.assert_close(attention(q, k, v, backend=backend), out, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pattern", [Full(), Window(2, 2, 3)])
def test_error_is_at_most_twice_torchs_own(pattern, dtype, backend):
    q, k, v = tensors(batch=32, dtype=dtype)  # of few numbers the worst is a lottery, different on every CPU
    truth, _ = attention_reference(q.double(), k.double(), v.double(), grid=GRID, pattern=pattern)
    mask = None if pattern == Full() else allowed(pattern, GRID)
    own = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), attn_mask=mask).transpose(
        1, 2
    )
    ours = attention(q, k, v, grid=GRID, pattern=pattern, backend=backend)
    assert ours.dtype == dtype
    bound = 2 * (own.double() - truth).abs().max()
    assert (ours.double() - truth).abs().max() <= bound


@pytest.mark.parametrize("pattern", PATTERNS)
def test_gradients_of_output_and_lse(pattern):
    grid = (2, 2, 2)
    pattern = Window(1, 2, 1) if isinstance(pattern, Window) else pattern
    inputs = [t.requires_grad_() for t in tensors(queries=10, dim=3, dtype=torch.float64)]
    asked = {"grid": grid, "pattern": pattern, "text": (2, "first"), "key_lengths": torch.tensor([10, 7])}
    assert torch.autograd.gradcheck(lambda *qkv: attention(*qkv, return_lse=True, **asked), inputs)
    assert torch.autograd.gradcheck(lambda *qkv: attention(*qkv, backend="sdpa", **asked), inputs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_query_that_sees_no_key_gives_zero_and_no_nan(backend):
    q, k, v = (t.requires_grad_() for t in tensors(dtype=torch.float32))
    lengths = torch.tensor([24, 8])  # the second clip's last two frames are padding
    out = attention(q, k, v, grid=GRID, pattern=Spatial(), key_lengths=lengths, backend=backend)
    assert torch.equal(out[1, 8:], torch.zeros_like(out[1, 8:]))
    assert out[1, :8].abs().min() > 0
    for gradient in torch.autograd.grad(out.square().sum(), (q, k, v)):
        assert gradient.isfinite().all()
    _, lse = attention(q, k, v, grid=GRID, pattern=Spatial(), key_lengths=lengths, return_lse=True)
    assert torch.isneginf(lse[1, :, 8:]).all() and lse[1, :, :8].isfinite().all()
    for gradient in torch.autograd.grad(lse[lse.isfinite()].sum(), (q, k)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_does_not_reach_the_result(backend):
    q, k, v = tensors(queries=6, keys=9)
    lengths = torch.tensor([9, 4])
    clean = attention(q, k, v, key_lengths=lengths, backend=backend)
    k[1, 4:], v[1, 4:] = 1e4, -1e4
    assert torch.equal(attention(q, k, v, key_lengths=lengths, backend=backend), clean)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_do_not_matter(backend):
    packed = torch.randn(2, 24, 3, 2, 8, generator=torch.Generator().manual_seed(1))
    sliced = packed.unbind(2)
    heads_first = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in sliced]
    asked = {"grid": GRID, "pattern": Window(2, 1, 3), "backend": backend}
    torch.testing.assert_close(
        attention(*sliced, **asked), attention(*heads_first, **asked), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("pattern", PATTERNS)
def test_compiles_into_one_graph(pattern):
    q, k, v = tensors()
    asked = {"grid": GRID, "pattern": pattern, "key_lengths": torch.tensor([24, 20])}
    compiled = torch.compile(lambda *qkv: attention(*qkv, **asked), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, v), attention(q, k, v, **asked), rtol=0, atol=1e-6)


def test_explain_names_the_backend_and_why_not_the_others():
    q, k, v = tensors()
    assert explain(q, k, v).backend == "sdpa"
    choice = explain(q, k, v, return_lse=True)
    assert choice.backend == "reference"
    assert choice.refused["sdpa"] == "torch SDPA does not return the log-sum-exp"
    assert choice.refused["triton"] == "its kernels run on CUDA, the tensors are on cpu"
    assert set(choice.refused) == {*NAMES, "int8"} - {"reference"}
    assert str(choice).startswith("reference: ") and "not sdpa: " in str(choice)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"backend": "sdpa", "return_lse": True}, "'sdpa' cannot serve this call: .*log-sum-exp"),
        ({"backend": "flash9"}, "expected auto, triton, sdpa, "),
        ({"pattern": Spatial()}, "needs the video's"),
        ({"pattern": Spatial(), "grid": (3, 2, 5)}, "makes a sequence of 30, got 24 queries"),
        ({"pattern": Spatial(), "grid": GRID, "text": (1, "last")}, "makes a sequence of 25"),
        ({"key_lengths": torch.tensor([3])}, "key_lengths: expected 2 integers"),
        ({"key_lengths": torch.tensor([3.0, 4.0])}, "key_lengths: expected 2 integers"),
    ],
)
def test_refusals_say_why(asked, message):
    for function in (attention, explain):
        with pytest.raises(ValueError, match=message):
            function(*tensors(), **asked)


def test_tensors_that_do_not_fit_are_refused():
    q, k, v = tensors()
    for bad, message in [
        ((q[0], k, v), r"q: expected \[B, S, heads, D\]"),
        ((q, k.double(), v), "k: expected q's floating dtype"),
        ((q, k, v[:, :5]), "do not fit"),
        ((q[:, :, :1], k, v), "heads: 1 of the queries do not divide over 2"),
        ((q, k[..., :4], v), "do not fit"),
        ((q, k, v[:, :, :1]), "do not fit"),
        ((q, k[:, :0], v[:, :0]), "no keys"),
        ((q.transpose(2, 3).contiguous().transpose(2, 3), k, v), "last dimension must be contiguous"),
    ]:
        with pytest.raises(ValueError, match=message):
            attention(*bad)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("sdpa", "flex", "reference")])
def test_what_needs_a_gpu_says_so_where_there_is_none(name):
    with pytest.raises(ValueError, match=f"'{name}' cannot serve this call: .*CUDA.* on cpu"):
        attention(*tensors(), backend=name)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PATTERNS)
def test_flex_attention_computes_the_formula(pattern):
    q, k, v = tensors(queries=26, dim=16)
    asked = {"grid": GRID, "pattern": pattern, "text": (2, "first")}
    out = attention(q, k, v, backend="flex", **asked)
    torch.testing.assert_close(out, attention_reference(q, k, v, **asked)[0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_operator_on_the_cpu_is_the_definition(pattern):
    inputs = [t.requires_grad_() for t in tensors(queries=26)]
    lengths = torch.tensor([26, 20])
    asked = {"grid": GRID, "pattern": pattern, "text": (2, "first"), "key_lengths": lengths, "scale": 0.4}
    where = ops.flat_pattern(pattern, GRID, (2, "first"))
    for with_lse in (True, False):
        out, lse = ops.attention_op(*inputs, *where, lengths, None, 0.4, with_lse, *NO_TRANSFORM)
        truth, truth_lse = attention_reference(*inputs, **asked)
        assert torch.equal(out, truth)
        loss, expected = out.square().sum(), truth.square().sum()
        if with_lse:
            loss = loss + torch.where(lse.isfinite(), lse, 0).sum()
            expected = expected + torch.where(truth_lse.isfinite(), truth_lse, 0).sum()
        for mine, exact in zip(
            torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True
        ):
            torch.testing.assert_close(mine, exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_fused_queries_keys_and_values(pattern):
    fused = torch.randn(2, 24, 3, 2, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    asked = {"grid": GRID, "pattern": pattern, "key_lengths": torch.tensor([24, 20])}
    out, lse = attention_packed(fused, return_lse=True, **asked)
    expected, expected_lse = attention(*fused.unbind(2), return_lse=True, **asked)
    assert torch.equal(out, expected) and torch.equal(lse, expected_lse)
    where = (*ops.flat_pattern(pattern, GRID, None), asked["key_lengths"], None, 8**-0.5, False, *NO_TRANSFORM)
    found, _ = torch.ops.phys4d.attention_packed(fused, *where)
    assert torch.equal(found, expected)
    (gradient,), (truth,) = (torch.autograd.grad(result.square().sum(), fused) for result in (found, expected))
    torch.testing.assert_close(gradient, truth, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"qkv: expected \[B, S, 3, heads, D\]"):
        attention_packed(fused[:, :, :2])


def test_short_half_precision_under_autocast_is_one_graph() -> None:
    def attend(q, k, v):
        with torch.autocast("cpu", torch.bfloat16):
            return attention(q, k, v, backend="sdpa")

    q, k, v = (x.requires_grad_() for x in tensors(1, 8, 8, dtype=torch.bfloat16))
    try:
        found = torch.compile(attend, fullgraph=True, backend="eager")(q, k, v)
    finally:
        torch._dynamo.reset()
    assert torch.equal(found, attend(q, k, v))


@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])  # which would take fp32 back to half
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("keys", "training", "single"), [(256, True, True), (257, True, False), (256, False, True)])
def test_short_half_precision_is_computed_in_fp32(monkeypatch, autocast, dtype, keys, training, single):
    """On the CPU: the same bits as from inputs in fp32, rounded once; a mask of numbers goes with it. Without gradients
    too, so that a policy draws what is then trained."""
    seen, torchs = [], F.scaled_dot_product_attention

    def spy(q, k, v, **options):
        seen.append((q.dtype, options["attn_mask"].dtype))
        return torchs(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    q, k, v = (x.requires_grad_(training) for x in tensors(1, 8, keys, dtype=dtype))
    mask = torch.randn(1, 1, 8, keys, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.autocast("cpu", dtype, enabled=autocast):
        out = attention(q, k, v, mask=mask, backend="sdpa")
    assert out.dtype == dtype and seen == [(torch.float32, torch.float32) if single else (dtype, dtype)]
    if single:
        wide = [x.detach().float().requires_grad_() for x in (q, k, v)]
        expected = attention(*wide, mask=mask.float(), backend="sdpa")
        torch.testing.assert_close(out, expected.to(dtype), rtol=0, atol=0)
    if single and training:
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
        out.backward(grad)
        expected.backward(grad.float())
        for ours, wanted in zip((q, k, v), wide, strict=True):
            torch.testing.assert_close(ours.grad, wanted.grad.to(dtype), rtol=0, atol=0)
