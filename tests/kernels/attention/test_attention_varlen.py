"""Packed sequences of different lengths: each is as if it stood alone."""

import pytest
import torch

from phys4d.kernels.attention import Full, attention_reference, attention_varlen

OFFSETS, OF_KEYS = [2, 7, 7, 19, 22], [0, 4, 6, 15, 21]  # an empty sequence; tokens of none at both ends
TOTAL = 24


def packed(dtype=torch.float64, device="cpu", heads=4, kv_heads=2, value_dim=8):
    generator = torch.Generator().manual_seed(1)
    shapes = (TOTAL, heads, 8), (TOTAL, kv_heads, 8), (TOTAL, kv_heads, value_dim)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [t.to(device, dtype).requires_grad_() for t in made]


def one_by_one(q, k, v, offsets, of_keys, causal):
    out = q.new_zeros(TOTAL, q.shape[1], v.shape[2])
    lse = q.new_full((q.shape[1], TOTAL), -torch.inf)
    for begin, end, first, last in zip(offsets, offsets[1:], of_keys, of_keys[1:], strict=False):
        if end > begin and last > first:
            tensors = q[None, begin:end], k[None, first:last], v[None, first:last]
            found, found_lse = attention_reference(*tensors, pattern=Full(causal=causal))
            out[begin:end], lse[:, begin:end] = found[0], found_lse[0]
    return out, lse


@pytest.mark.parametrize("backend", ["auto", "reference", pytest.param("triton", marks=pytest.mark.interpreted)])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("of_keys", [None, OF_KEYS])
def test_each_sequence_is_as_if_it_stood_alone(backend, causal, of_keys, device):
    dtype = torch.float32 if backend == "triton" else torch.float64
    place = device if backend == "triton" else "cpu"
    tensors = packed(dtype, place)
    exact = [t.detach().cpu().double().requires_grad_() for t in tensors]
    out, lse = one_by_one(*exact, OFFSETS, of_keys or OFFSETS, causal)
    offsets = torch.tensor(OFFSETS, dtype=torch.int32, device=place)
    keys = None if of_keys is None else torch.tensor(of_keys, device=place, dtype=torch.int32)
    with_lse = backend != "auto"
    found = attention_varlen(
        *tensors, offsets, cu_seqlens_k=keys, causal=causal, backend=backend, return_lse=with_lse
    )
    tolerance = 5e-6 if backend == "triton" else 1e-12
    if with_lse:
        found, found_lse = found
        torch.testing.assert_close(found_lse.cpu().double(), lse, rtol=0, atol=tolerance)
    torch.testing.assert_close(found.cpu().double(), out, rtol=0, atol=tolerance)
    dout = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradients = torch.autograd.grad((found * dout.to(place, dtype)).sum(), tensors)
    for mine, right in zip(gradients, torch.autograd.grad((out * dout).sum(), exact), strict=True):
        torch.testing.assert_close(mine.cpu().double(), right, rtol=0, atol=4 * tolerance)


def test_a_longest_sequence_that_is_given_is_not_read():
    tensors, offsets = packed(value_dim=6), torch.tensor(OFFSETS)
    expected = attention_varlen(*tensors, offsets)
    assert expected.shape == (TOTAL, 4, 6)
    torch.testing.assert_close(attention_varlen(*tensors, offsets, max_seqlen=12), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(attention_varlen(*tensors, offsets, max_seqlen=20), expected, rtol=0, atol=1e-12)
    meta = [t.to("meta") for t in tensors]
    assert attention_varlen(*meta, offsets.to("meta"), max_seqlen=12).shape == (TOTAL, 4, 6)


def test_compiles_into_one_graph():
    tensors, offsets = packed(torch.float32), torch.tensor(OFFSETS)
    compiled = torch.compile(
        lambda *qkv: attention_varlen(*qkv, offsets, max_seqlen=12, causal=True), fullgraph=True, backend="aot_eager"
    )
    expected = attention_varlen(*tensors, offsets, causal=True)
    torch.testing.assert_close(compiled(*tensors), expected, rtol=0, atol=1e-6)


def test_queries_see_later_keys_too_where_causal_is_not_said():
    q, v = torch.zeros(3, 1, 1), torch.tensor([1.0, 5.0, 9.0])[:, None, None]
    found = attention_varlen(q, q, v, torch.tensor([0, 2, 3]))
    assert found.flatten().tolist() == [3, 3, 9]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(1, 24, 4, 8)}, r"q: expected \[total, heads, D\], got \[1, 24, 4, 8\]"),
        ({"cu_seqlens": torch.tensor([0, 9, 5, 24])}, r"ascending offsets into 24 tokens.*got \[0, 9, 5, 24\]"),
        ({"cu_seqlens": torch.tensor([0, 25])}, "into 24 tokens"),
        ({"cu_seqlens": torch.tensor([0, 9, 25])}, "into 24 tokens"),
        ({"cu_seqlens": torch.tensor([-1, 24])}, "into 24 tokens"),
        ({"cu_seqlens": torch.tensor([0.0, 24.0])}, "expected int32 or int64"),
        ({"cu_seqlens": torch.tensor([24])}, "expected int32 or int64"),
        ({"cu_seqlens": torch.tensor([0, 24], device="meta")}, "q on cpu and cu_seqlens on meta"),
        ({"max_seqlen": 11}, "of sequences of at most 11"),
        ({"cu_seqlens_k": torch.tensor([0, 24])}, r"cu_seqlens_k: expected \[5\] as cu_seqlens, got \[2\]"),
        ({"k": torch.zeros(24, 3, 8), "v": torch.zeros(24, 3, 8)}, "4 of the queries do not divide over 3"),
    ],
)
def test_refusals_say_why(change, message):
    given = dict(zip("qkv", packed(torch.float32), strict=True)) | {"cu_seqlens": torch.tensor(OFFSETS)} | change
    with pytest.raises(ValueError, match=message):
        attention_varlen(**given)
