"""Attention with scores from int8 products: its definition by hand, what it refuses, and its kernels beside float64."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from phys4d.kernels.attention import (
    Full,
    Spatial,
    Temporal,
    attention,
    attention_packed,
    attention_reference,
    explain,
    measured,
)
from phys4d.kernels.attention.api import choose
from phys4d.kernels.attention.backends import BACKENDS
from phys4d.kernels.attention.call import Call
from phys4d.kernels.attention.int8 import int8_op
from phys4d.kernels.attention.int8_reference import int8_attention_reference, quantised
from phys4d.kernels.elementwise import QKNorm

HALF = (torch.bfloat16, torch.float16)


def inputs(*, queries=150, keys=201, heads=4, kv_heads=2, dim=64, dtype=torch.bfloat16, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (2, queries, heads, dim), (2, keys, kv_heads, dim), (2, keys, kv_heads, dim)
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


def exactly(*tensors):
    return [t.double() for t in tensors]


def relative(found, truth):
    return ((found.double() - truth).norm() / truth.norm()).item()


def test_a_block_is_rounded_by_its_largest_number():
    x = torch.tensor([[254.0, -127.0, 1.0, 3.0], [-1.0, 0.0, 2.5, -3.0], [0.0, 0.0, 0.0, 0.0]])[None, :, None]
    integers, scales = quantised(x, 2)
    assert scales.flatten().tolist() == [2.0, 1.0]
    assert integers.flatten(1).tolist()[0] == [127, -63, 1, 2, 0, 0, 1, -1, 0, 0, 0, 0]


def test_heads_clips_and_blocks_have_scales_of_their_own():
    x = torch.ones(2, 3, 2, 4)
    for clip, token, head, size in ((0, 0, 1, 127.0), (1, 2, 0, 254.0)):
        x[clip, token, head, 2] = size
    assert (quantised(x, 2)[1] * 127).round().tolist() == [[[1, 127], [1, 1]], [[1, 1], [254, 1]]]


def test_the_largest_magnitude_may_be_that_of_a_negative_number():
    integers, scales = quantised(torch.tensor([-254.0, 100.0])[None, None, None], 2)
    assert scales.tolist() == [[[2.0]]] and integers.flatten().tolist() == [-127, 50]


def test_blocks_are_of_128_queries_and_64_keys():
    """A number of 0.3 beside one of 100 is rounded to 0; the first token of the next block is not."""
    q, k = torch.zeros(1, 129, 1, 1), torch.tensor([-1.0, 1.0])[None, :, None, None]
    q[0, 0], q[0, 127], q[0, 128] = 100, 0.3, 0.3
    v = torch.tensor([0.0, 1.0])[None, :, None, None]
    right = torch.sigmoid(2 * torch.tensor([0.0, 0.3]))
    torch.testing.assert_close(int8_attention_reference(q, k, v, scale=1.0)[0, 127:, 0, 0], right)

    q, k, held = torch.ones(1, 1, 1, 1), torch.zeros(1, 65, 1, 1), torch.zeros(65)
    k[0, 0], k[0, 1], k[0, 63], k[0, 64] = 100, -100, -0.3, 0.3  # mean 0
    held[0], held[1], held[64] = 100, -100, 0.3
    v = torch.eye(65)[None, :, None]
    right = (held * 0.02).softmax(0)
    torch.testing.assert_close(int8_attention_reference(q, k, v, scale=0.02)[0, 0, 0], right, rtol=1e-5, atol=0)


@pytest.mark.parametrize("length", [-3, 0, 1, 2, 70, 201, 300])
def test_keys_from_key_lengths_on_are_as_if_they_were_not_there(length):
    """Neither in the mean nor in a scale, whatever they are; lengths outside of 0 to 201 are the nearest of them."""
    q, k, v = exactly(*inputs(queries=5))
    k = k / 100  # a hidden key of 1 would make a scale
    few = max(0, min(length, 201))
    alone = int8_attention_reference(q, k[:, :few], v[:, :few]) if few else torch.zeros_like(q)
    k[:, few:], v[:, few:] = float("nan"), float("inf")
    found = int8_attention_reference(q, k, v, key_lengths=torch.tensor([length, length]))
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_makes_its_block_nan(number):
    x = torch.ones(1, 4, 1, 4)
    x[0, 1, 0, 3] = number
    integers, scales = quantised(x, 2)
    assert scales[0, 0].isnan() and scales[0, 1] * 127 == 1
    assert integers[0, :2].abs().max() == 0 and integers[0, 2:].min() == 127


def test_what_all_keys_have_in_common_is_not_rounded():
    """The mean of the keys is taken off, so that an offset of all keys, far larger than they, changes nothing."""
    q, k, v = exactly(*inputs())
    offset = 1000 * torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([201, 70])
    for asked in ({}, {"key_lengths": lengths}):
        plain = int8_attention_reference(q, k, v, **asked)
        torch.testing.assert_close(int8_attention_reference(q, k + offset, v, **asked), plain, rtol=0, atol=1e-9)
        assert 1e-3 < relative(plain, attention_reference(q, k, v, **asked)[0]) < 0.02


def test_scores_are_products_of_the_rounded_numbers():
    q, k = torch.zeros(1, 1, 1, 64), torch.zeros(1, 2, 1, 64)
    q[..., 0], q[..., 1] = 127.0, 0.4  # 0.4 is rounded to 0
    k[0, 0, 0, 0], k[0, 1, 0, 0], k[0, 0, 0, 1], k[0, 1, 0, 1] = 1.0, -1.0, 63.0, -63.0  # mean 0
    v = torch.stack((torch.ones(64), torch.zeros(64)))[None, :, None]
    # 1 / (63 / 127) is 2.01, which is rounded to 2: scores of +-127 * 2 * 63 / 127 * scale
    right = torch.sigmoid(torch.tensor(2 * 127 * 2 * 63 / 127 * 0.01))
    found = int8_attention_reference(q, k, v, scale=0.01)
    torch.testing.assert_close(found, right.expand(1, 1, 1, 64), rtol=1e-6, atol=0)
    assert abs(attention_reference(q, k, v, scale=0.01)[0].mean() - right) > 1e-3


def asked_for(dtype=torch.bfloat16, training=False, dim=64, value_dim=None, device="cpu", **rest):
    q, k = (torch.zeros(1, 12, 2, dim, dtype=dtype, device=device, requires_grad=training) for _ in range(2))
    v = torch.zeros(1, 12, 2, value_dim or dim, dtype=dtype, device=device)
    return q, k, v, {"grid": (3, 2, 2), "backend": "int8", **rest}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"training": True}, "it has no gradient: call it under torch.no_grad()"),
        ({"qk_norm": "trained"}, "it has no gradient"),
        ({"mask": torch.ones(1, 1, 1, 12, dtype=torch.bool)}, "it takes no mask but key_lengths"),
        ({"pattern": Full(causal=True)}, r"it computes Full\(\), not Full\(causal=True\)"),
        ({"pattern": Spatial()}, r"it computes Full\(\), not Spatial\(\)"),
        ({"pattern": Temporal()}, r"it computes Full\(\), not Temporal"),
        ({"dtype": torch.float32}, "it takes bfloat16 and float16, not torch.float32"),
        ({"dim": 72}, "it takes heads of 64 and 128 channels, not 72"),
        ({"value_dim": 32}, "values as wide as keys, not 32 beside 64"),
        ({"return_lse": True}, "it gives no log-sum-exp"),
        ({"device": "meta"}, "the tensors are on meta"),
    ],
)
def test_what_it_cannot_serve_is_refused(given, why):
    if given.get("qk_norm") == "trained":
        weight = torch.ones(64, requires_grad=True)
        given = {"qk_norm": QKNorm("rms", weight, weight)}
    q, k, v, asked = asked_for(**given)
    with pytest.raises(ValueError, match=f"backend 'int8' cannot serve this call: .*{why}"):
        attention(q, k, v, **asked)


def test_derivatives_in_forward_mode_are_refused():
    q, k, v, _ = asked_for()
    with torch.no_grad(), pytest.raises(ValueError, match="forward-mode differentiation is not supported"):
        torch.func.jvp(lambda x: attention(x, k, v, backend="int8"), (q,), (torch.ones_like(q),))


def test_it_serves_under_no_grad_what_it_refuses_in_training():
    q, k, v = inputs()
    q.requires_grad_()
    with pytest.raises(ValueError, match="it has no gradient"):
        attention(q, k, v, backend="int8")
    with torch.no_grad():
        found = attention(q, k, v, backend="int8")
    assert not found.requires_grad and found.dtype == torch.bfloat16
    assert relative(found, attention_reference(*exactly(q.detach(), k, v))[0]) < 0.02
    assert explain(q.detach(), k.detach(), v.detach(), backend="int8").backend == "int8"


def test_auto_never_takes_it(monkeypatch):
    q, k, v = inputs()
    call = Call(q, k, v, None, Full(), None, None, None, False)
    assert choose(call, "auto").backend != "int8"
    ranked = measured.Ranking(("int8", "reference"), "a table that should not list it", None)
    monkeypatch.setattr(measured, "ranking", lambda call: ranked)
    chosen = choose(call, "auto")
    assert chosen.backend == "reference" and "only where it is asked for by name" in chosen.refused["int8"]
    assert BACKENDS["int8"].refusal(call) is None


def test_norm_rotation_packing_and_text_come_before_it():
    q, k, v = inputs(queries=14, keys=14, kv_heads=4)
    norm = QKNorm("rms", torch.full((64,), 2.0).bfloat16(), torch.full((64,), 0.5).bfloat16())
    asked = {"grid": (3, 2, 2), "text": (2, "first"), "qk_norm": norm}
    found = attention(q, k, v, backend="int8", **asked)
    packed = attention_packed(torch.stack((q, k, v), 2), backend="int8", **asked)
    assert torch.equal(found, packed)
    assert relative(found, attention(*exactly(q, k, v), backend="reference", **asked)) < 0.02


def test_operator_rules():
    q, k, v = inputs(queries=20, keys=9)
    lengths = torch.tensor([9, 3])
    for given in ((q, k, v, None, 0.3), (q[:, ::2], k, v.transpose(0, 1).contiguous().transpose(0, 1), lengths, 0.3)):
        torch.library.opcheck(int8_op, given)
    compiled = torch.compile(lambda q, k, v: attention(q, k, v, backend="int8"), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(q, k, v), attention(q, k, v, backend="int8"))


def test_its_work_is_counted():
    q, k, v = inputs(queries=20, keys=9)
    with FlopCounterMode(display=False) as counter:
        attention(q, k, v, backend="int8")
    assert counter.get_total_flops() == 4 * 2 * 4 * 20 * 9 * 64


def test_its_operator_called_in_training_raises_in_backward():
    q, k, v = inputs(queries=5, keys=5)
    with pytest.raises(RuntimeError, match="autograd"):
        torch.ops.phys4d.attention_int8(q.requires_grad_(), k, v, None, 0.3).float().sum().backward()


@pytest.mark.interpreted
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(
    ("dim", "padded"),
    [(64, True), (128, False), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((64, False), (128, True)))],
)
def test_the_kernels_give_the_definition(dtype, dim, padded, device):
    """Up to the rounding of weights to the values' dtype: the rest of its error is the definition's."""
    q, k, v = inputs(heads=2, kv_heads=1, dim=dim, dtype=dtype, device=device)
    k = (k + 10 * torch.randn(dim, generator=torch.Generator().manual_seed(2)).to(k)).to(dtype)
    lengths = torch.tensor([201, 70], device=device) if padded else None
    if padded:
        k[1, 70:], v[1, 70:] = float("nan"), float("inf")
    with torch.no_grad():
        found = attention(q, k, v, key_lengths=lengths, backend="int8")
        again = attention(q, k, v, key_lengths=lengths, backend="int8")
    definition = int8_attention_reference(*exactly(q, k, v), key_lengths=lengths)
    if padded:
        k[1, 70:], v[1, 70:] = 0, 0
    own = attention(q, k, v, key_lengths=lengths, backend="reference")
    truth = attention_reference(*exactly(q, k, v), key_lengths=lengths)[0]
    assert torch.equal(found, again) and found.dtype == dtype
    assert relative(found, definition) < {torch.bfloat16: 4e-3, torch.float16: 6e-4}[dtype]
    assert relative(own, truth) < 4e-3 < relative(found, truth) < 0.02


@pytest.mark.interpreted
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (128, 64), (129, 65), (5, 300)])
def test_odd_sizes_and_strides(queries, keys, device):
    q, k, v = (
        torch.randn(2, count, 3, 4, 64, generator=torch.Generator().manual_seed(n)).to(device, torch.float16)[:, :, n]
        for n, count in enumerate((queries, keys, keys))
    )
    assert not q.is_contiguous()
    found = attention(q, k, v, scale=-0.2, backend="int8")
    definition = int8_attention_reference(*exactly(q, k, v), scale=-0.2)
    assert relative(found, definition) < 1e-3


@pytest.mark.interpreted
def test_clips_without_keys_give_zero_and_numbers_that_are_not_finite_spread(device):
    q, k, v = inputs(queries=130, keys=70, device=device)
    k[1, 5, 1, 3] = float("nan")
    found = attention(q, k, v, key_lengths=torch.tensor([0, 70], device=device), backend="int8")
    assert torch.equal(found[0], torch.zeros_like(found[0]))
    assert found[1, :, 2:].isnan().all() and found[1, :, :2].isfinite().all()
    q[0, 129, 0, 0] = float("inf")
    found = attention(q, k, v, backend="int8")
    assert found[0, 128:, 0].isnan().all() and found[0, :128].isfinite().all() and found[0, :, 1:].isfinite().all()

