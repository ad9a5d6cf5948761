"""The definition where its other tests have sizes that are equal by chance: widths, heads, texts without tokens."""

import pytest
import torch

from phys4d.kernels.attention import Full, attention_reference
from phys4d.kernels.attention.reference import attention_backward_reference


def tensors(dim, heads=4, kv_heads=2):
    """q, k, v of 3 queries and 5 keys, then the gradients of out and lse."""
    generator = torch.Generator().manual_seed(2)
    shapes = (1, 3, heads, dim), (1, 5, kv_heads, dim), (1, 5, kv_heads, dim), (1, 3, heads, dim), (1, heads, 3)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@pytest.mark.parametrize("dim", [2, 4, 7])  # as many as heads of keys, as heads of queries, neither
def test_sharing_of_keys_follows_from_the_numbers_of_heads_alone(dim):
    q, k, v, *_ = tensors(dim)
    out, lse = attention_reference(q, k, v)
    for head in range(4):
        scores = q[0, :, head] @ k[0, :, head // 2].T / dim**0.5
        torch.testing.assert_close(out[0, :, head], scores.softmax(-1) @ v[0, :, head // 2], rtol=0, atol=1e-12)
        torch.testing.assert_close(lse[0, head], scores.exp().sum(-1).log(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dim", [2, 4, 7])
def test_gradients_without_a_scale_are_those_of_autograd(dim):
    q, k, v, dout, dlse = tensors(dim)
    inputs = [t.requires_grad_() for t in (q, k, v)]
    out, lse = attention_reference(*inputs)
    expected = torch.autograd.grad((out, lse), inputs, (dout, dlse))
    with torch.no_grad():
        found = attention_backward_reference(q, k, v, out, lse, dout, dlse)
    for mine, right in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", ["first", "last"])
def test_a_text_without_tokens_is_none(side):
    q, k, v, *_ = tensors(7)
    found, _ = attention_reference(q, k, v, pattern=Full(causal=True), text=(0, side))
    assert torch.equal(found, attention_reference(q, k, v, pattern=Full(causal=True))[0])
    torch.testing.assert_close(found[0, 0], v[0, 0].repeat_interleave(2, dim=0), rtol=0, atol=1e-12)
