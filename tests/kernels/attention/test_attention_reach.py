"""Heads that share keys, causal sequences, masks and values of another width: the definition and torch's SDPA."""

import dataclasses

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
from phys4d.kernels.attention.qk_transform import NO_TRANSFORM
from phys4d.kernels.elementwise import QKNorm, Rope, qk_norm_rope
from tests.kernels.attention.reach_cases import CASES, GRID, Case, by_query

EVERY = pytest.mark.parametrize("name", CASES)


def loss_of(out, lse, dout, dlse):
    return (out * dout).sum() + (torch.where(lse.isfinite(), lse, 0) * dlse).sum()


@EVERY
def test_results_and_gradients_are_those_of_the_formula(name):
    case = CASES[name]
    qkv, asked = case.tensors()
    out, lse = by_query(case, qkv, asked)
    generator = torch.Generator().manual_seed(8)
    dout, dlse = (torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in (out, lse))
    truth = torch.autograd.grad(loss_of(out, lse, dout, dlse), qkv, retain_graph=True)
    found, found_lse = attention(*qkv, return_lse=True, backend="reference", **asked)
    torch.testing.assert_close(found, out, rtol=0, atol=1e-12)
    torch.testing.assert_close(found_lse, lse, rtol=0, atol=1e-12)
    gradients = torch.autograd.grad(loss_of(found, found_lse, dout, dlse), qkv)
    torch.testing.assert_close(gradients, truth, rtol=0, atol=1e-12)
    again = attention_backward(*qkv, found.detach(), found_lse.detach(), dout, dlse, **asked)
    torch.testing.assert_close(again, truth, rtol=0, atol=1e-12)
    alone = torch.autograd.grad((out * dout).sum(), qkv)
    served = attention(*qkv, backend="sdpa", **asked)
    torch.testing.assert_close(served, out, rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.autograd.grad((served * dout).sum(), qkv), alone, rtol=0, atol=1e-12)


@EVERY
def test_the_operator_on_the_cpu_is_the_definition(name):
    case = CASES[name]
    qkv, asked = case.tensors(torch.float32)
    flat = ops.flat_pattern(case.pattern, asked.get("grid"), case.text)
    arguments = (*qkv, *flat, asked.get("key_lengths"), asked.get("mask"), 0.4, True, *NO_TRANSFORM)
    out, lse = ops.attention_op(*arguments)
    truth, truth_lse = attention_reference(*qkv, **asked)
    assert torch.equal(out, truth) and torch.equal(lse, truth_lse)
    dout, dlse = torch.ones_like(out), torch.ones_like(lse)
    found = torch.autograd.grad(loss_of(out, lse, dout, dlse), qkv)
    expected = torch.autograd.grad(loss_of(truth, truth_lse, dout, dlse), qkv)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    with torch._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = [mode.from_tensor(t) if isinstance(t, torch.Tensor) else t for t in arguments]
        shapes = [t.shape for t in torch.ops.phys4d.attention(*fake)]
    assert shapes == [out.shape, lse.shape]


@pytest.mark.parametrize("name", ["two heads share keys", "causal", "added", "wide values, all at once"])
def test_compiles_into_one_graph(name):
    qkv, asked = CASES[name].tensors(torch.float32)
    compiled = torch.compile(lambda *qkv: attention(*qkv, **asked), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*qkv), attention(*qkv, **asked), rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", ["sdpa", "reference"])
def test_the_gradient_of_an_added_mask(backend):
    qkv, asked = CASES["added for all clips and queries"].tensors()
    mask = asked.pop("mask").requires_grad_()
    out = attention(*qkv, mask=mask, backend=backend, **asked)
    exact = mask.detach().clone().requires_grad_()
    k, v = (t.repeat_interleave(2, 2) for t in qkv[1:])
    scores = torch.einsum("bshd,bthd->bhst", qkv[0], k) * 0.4 + exact
    truth = torch.einsum("bhst,bthd->bshd", scores.softmax(-1), v)
    (found,), (expected,) = (torch.autograd.grad(t.square().sum(), m) for t, m in ((out, mask), (truth, exact)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_a_direct_call_of_the_operator_refuses_the_gradient_of_a_mask():
    (q, k, v), asked = CASES["added"].tensors(torch.float32)
    mask = asked["mask"].requires_grad_()
    with pytest.raises(RuntimeError, match="gives no gradient of the mask"):
        ops.attention_op(q, k, v, *ops.flat_pattern(Full(), None, None), None, mask, 0.4, True, *NO_TRANSFORM)


def test_full_is_causal_as_torch_has_it():
    for queries, keys in ((5, 5), (4, 7), (7, 4)):
        qkv, _ = Case(queries=queries, keys=keys).tensors()
        own = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in qkv), is_causal=True).transpose(1, 2)
        torch.testing.assert_close(attention(*qkv, pattern=Full(causal=True)), own, rtol=0, atol=1e-12)


def test_a_mask_beyond_the_range_of_half_precision_gives_no_nan():
    (q, k, v), _ = Case().tensors(torch.float16)
    mask = torch.full((1, 1, 12, 12), -1e9)
    mask[..., :3] = 0
    mask[..., 5, :] = -1e9
    out = attention(q, k, v, mask=mask)
    expected = attention(q, k, v, mask=mask == 0)
    torch.testing.assert_close(out[:, 6:], expected[:, 6:])
    assert (out[:, 5] == 0).all()


def test_norms_and_rotations_of_shared_heads():
    (q, k, v), asked = CASES["two heads share keys"].tensors()
    norm = QKNorm("rms_across_heads", torch.rand(64).double(), torch.rand(32).double())
    rope = Rope.make(GRID, (8, 4, 4), dtype=torch.float64)
    out = attention(q, k, v, qk_norm=norm, rope=rope, **asked)
    ready = qk_norm_rope(q, k, norm, rope, grid=GRID)
    torch.testing.assert_close(out, attention_reference(*ready, v, **asked)[0], rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["heads share keys, windows", "causal, few queries", "narrow values"])
def test_flex_attention_computes_the_formula(name):
    qkv, asked = dataclasses.replace(CASES[name], dim=16).tensors(torch.float32)
    with pytest.raises(ValueError, match="FlexAttention has neither backward"), torch.no_grad():
        attention(*qkv, backend="flex", **asked)
    out = attention(*(t.detach() for t in qkv), backend="flex", **asked)
    torch.testing.assert_close(out, attention_reference(*qkv, **asked)[0], rtol=0, atol=2e-6)


def test_packed_and_lists_of_lengths_take_the_same_words():
    qkv, asked = CASES["added, causal"].tensors(torch.float32)
    asked["key_lengths"] = asked["key_lengths"].tolist()
    expected = attention(*qkv, **asked)
    assert torch.equal(attention_packed(torch.stack(qkv, dim=2), **asked), expected)
    assert torch.equal(attention(*qkv, **(asked | {"key_lengths": tuple(asked["key_lengths"])})), expected)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"key_lengths": [3]}, "key_lengths: expected 2 integers"),
        ({"key_lengths": [3.0, 4.0]}, "expected a tensor, or a list of integers, got \\[3.0, 4.0\\]"),
        ({"key_lengths": [True, False]}, "expected a tensor, or a list of integers"),
        ({"key_lengths": 3}, "expected a tensor, or a list of integers, got 3"),
        ({"mask": torch.ones(2, 4, 12)}, r"mask: expected \[B or 1, heads or 1, S_q or 1, S_k\] of \[2, 4, 12, 12\]"),
        ({"mask": torch.ones(2, 4, 12, 1)}, r"got \[2, 4, 12, 1\]"),
        ({"mask": torch.ones(3, 1, 1, 12)}, r"got \[3, 1, 1, 12\]"),
        ({"mask": torch.ones(2, 1, 1, 12, dtype=torch.int64)}, "bool .* or floating .*, got torch.int64"),
        ({"mask": torch.ones(2, 1, 1, 12, device="meta")}, "mask: expected on cpu as q is, got on meta"),
        ({"pattern": Full(causal=True), "text": (2, "first")}, r"Full\(causal=True\) with text needs the video's"),
        ({"text": (700, "first")}, "text: 700 tokens are more than the 12 queries"),
        ({"grid": (3, 4, 5)}, r"grid \(3, 4, 5\) with 0 text tokens makes a sequence of 60, got 12 queries"),
        ({"grid": GRID, "text": (2, "first")}, "makes a sequence of 14, got 12 queries"),
        ({"grid": (3, 4)}, r"three positive sizes \(T, H, W\)"),
    ],
)
def test_refusals_say_why(asked, message):
    qkv, _ = Case().tensors(torch.float32)
    for function in (attention, explain):
        with pytest.raises(ValueError, match=message):
            function(*qkv, **asked)


@pytest.mark.parametrize("pattern", [Temporal, Spatial, Full, Window, "temporal", "full", None, 3])
def test_what_is_no_pattern_is_refused(pattern):
    qkv, asked = Case().tensors(torch.float32)
    for call in (
        lambda: attention(*qkv, **(asked | {"pattern": pattern})),
        lambda: explain(*qkv, **(asked | {"pattern": pattern})),
        lambda: attention_packed(torch.stack(qkv, 2), **(asked | {"pattern": pattern})),
        lambda: attention_reference(*qkv, **(asked | {"pattern": pattern})),
        lambda: attention_backward(*qkv, qkv[0], torch.zeros(2, 4, 12), qkv[0], **(asked | {"pattern": pattern})),
    ):
        with pytest.raises(ValueError, match="^pattern: expected an instance such as Full"):
            call()
