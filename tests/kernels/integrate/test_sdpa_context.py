"""torch's scaled_dot_product_attention inside a context: what computes, with what result, and what remains after it."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from phys4d.kernels.integrate import sdpa

ORIGINAL = F.scaled_dot_product_attention


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    yield
    assert F.scaled_dot_product_attention is ORIGINAL


def example(queries=7, keys=7, heads=3, dim=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, heads, queries, dim), (2, heads, keys, dim), (2, heads, keys, dim)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("backend", ["auto", "sdpa", "reference"])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("keys", [7, 5])
def test_a_plain_call_is_served_with_torchs_result(backend, scale, keys):
    tensors = example(keys=keys)
    truth = ORIGINAL(*tensors, scale=scale)
    with sdpa(backend) as calls:
        assert F.scaled_dot_product_attention is not ORIGINAL
        found = F.scaled_dot_product_attention(*tensors, scale=scale)
    assert (calls.served, calls.passed) == (1, {})
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-12)
    dout = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(found, tensors, dout), torch.autograd.grad(truth, tensors, dout)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def words(q):
    """Which of the keys are words: [B, 1, 1, S_k], not all of the first ones first."""
    return torch.tensor([[1, 1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 1, 1, 0]], dtype=torch.bool)[:, None, None]


def pairs(q):
    return torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(4), dtype=q.dtype)


SERVED = {
    "keys": lambda q, k, v: ((q, k, v), {"attn_mask": words(q)}),
    "pairs": lambda q, k, v: ((q, k, v), {"attn_mask": pairs(q) > -1}),
    "two dimensions": lambda q, k, v: ((q, k, v), {"attn_mask": pairs(q)[0, 0] > -1}),
    "queries alone": lambda q, k, v: ((q, k, v), {"attn_mask": pairs(q)[..., :1] * 3}),
    "added": lambda q, k, v: ((q, k, v), {"attn_mask": pairs(q), "scale": 0.3}),
    "added for all heads": lambda q, k, v: ((q, k, v), {"attn_mask": pairs(q)[:, :1]}),
    "causal": lambda q, k, v: ((q, k, v), {"is_causal": True}),
    "causal, few keys": lambda q, k, v: ((q, k[:, :, :4], v[:, :, :4]), {"is_causal": True}),
    "shared": lambda q, k, v: ((q, k[:, :1], v[:, :1]), {"enable_gqa": True}),
    "shared, causal": lambda q, k, v: ((q, k[:, :1], v[:, :1]), {"enable_gqa": True, "is_causal": True}),
    "narrow values": lambda q, k, v: ((q, k, v[..., :4]), {}),
    "all": lambda q, k, v: ((q, k[:, :1], v[:, :1, :, :4]), {"attn_mask": pairs(q), "enable_gqa": True}),
}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", SERVED)
def test_masks_causality_and_shared_heads_are_served_with_torchs_result(name, backend):
    tensors = example()
    arguments, named = SERVED[name](*tensors)
    truth = ORIGINAL(*arguments, **named)
    with sdpa(backend) as calls:
        found = F.scaled_dot_product_attention(*arguments, **named)
    assert (calls.served, calls.passed) == (1, {})
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-12)
    gradients = (torch.autograd.grad(out.square().sum(), tensors) for out in (found, truth))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


def test_a_trained_bias_gets_its_gradient():
    q, k, v = example()
    bias = pairs(q).requires_grad_()
    with sdpa() as calls:
        found = F.scaled_dot_product_attention(q, k, v, bias)
    assert calls.served == 1
    gradients = [torch.autograd.grad(t.square().sum(), bias)[0] for t in (found, ORIGINAL(q, k, v, bias))]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


class Marked(torch.Tensor):
    pass


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("not [B, heads, S, D]", lambda q, k, v: ((q[0], k[0], v[0]), {})),
        ("not contiguous", lambda q, k, v: ((q, k.mT.contiguous().mT, v), {})),
        ("nothing to attend", lambda q, k, v: ((q[:0], k[:0], v[:0]), {})),
        ("different heads", lambda q, k, v: ((q, k[:, :1], v[:, :1]), {})),
        ("different batches", lambda q, k, v: ((q, k[:1], v[:1]), {})),
        ("a subclass", lambda q, k, v: ((q, k, v), {"attn_mask": pairs(q).as_subclass(Marked)})),
    ],
)
def test_what_it_cannot_express_goes_to_torch(why, change):
    arguments, named = change(*example())
    truth = ORIGINAL(*arguments, **named)
    with sdpa() as calls:
        found = F.scaled_dot_product_attention(*arguments, **named)
    assert torch.equal(found, truth)
    (reason,) = calls.passed
    assert why in reason and calls.passed[reason] == 1 and calls.served == 0 and why in str(calls)


@pytest.mark.parametrize(
    "change",
    [
        {"attn_mask": torch.ones(6, 7, dtype=torch.bool)},
        {"attn_mask": torch.ones(7, 7, dtype=torch.int32)},
        {"attn_mask": torch.ones(7)},
    ],
)
def test_what_torch_refuses_stays_torchs_error(change):
    with pytest.raises((RuntimeError, ValueError, IndexError)) as expected:
        ORIGINAL(*example(), **change)
    with sdpa() as calls, pytest.raises(type(expected.value)) as found:
        F.scaled_dot_product_attention(*example(), **change)
    assert str(found.value) == str(expected.value) and calls.served == 0 and len(calls.passed) == 1


def test_dropout_stays_torchs_own():
    q, k, v = example()
    torch.manual_seed(3)
    truth = ORIGINAL(q, k, v, dropout_p=0.5)
    with sdpa() as calls:
        torch.manual_seed(3)
        assert torch.equal(F.scaled_dot_product_attention(q, k, v, None, 0.5), truth)
    assert calls.passed == {"dropout_p": 1}


def test_torch_layers_are_reached():
    layer = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    truth, _ = layer(x, x, x, need_weights=False)
    with sdpa() as calls:
        found, _ = layer(x, x, x, need_weights=False)
    assert calls.served == 1
    torch.testing.assert_close(found, truth)


def test_the_innermost_context_decides():
    tensors = example()
    with sdpa() as outer:
        F.scaled_dot_product_attention(*tensors)
        with sdpa("reference") as inner:
            F.scaled_dot_product_attention(*tensors)
            F.scaled_dot_product_attention(*tensors)
        F.scaled_dot_product_attention(*tensors, dropout_p=0.5)
    assert (outer.served, outer.passed, inner.served, inner.passed) == (1, {"dropout_p": 1}, 2, {})


def test_an_exception_leaves_nothing_behind():
    with pytest.raises(KeyError), sdpa(), sdpa():
        raise KeyError
    assert F.scaled_dot_product_attention is ORIGINAL
    with pytest.raises(ValueError, match="flash-attn-9"), sdpa("flash-attn-9"):
        pass


def test_a_backend_asked_for_by_name_that_cannot_serve_raises():
    with pytest.raises(ValueError, match="xformers"), sdpa("xformers"):
        F.scaled_dot_product_attention(*example())
    with sdpa() as calls:  # and the one after it is served: nothing remembers the failure
        F.scaled_dot_product_attention(*example())
    assert calls.served == 1


def test_blocks_computed_again_in_the_backward_pass_are_served():
    tensors = example()
    truth = torch.autograd.grad(ORIGINAL(*tensors).square().sum(), tensors)
    with sdpa() as calls:
        out = checkpoint(lambda *t: F.scaled_dot_product_attention(*t).square(), *tensors, use_reentrant=False)
        found = torch.autograd.grad(out.sum(), tensors)
    assert calls.served == 2
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-12)


def test_contexts_of_threads_may_end_in_any_order():
    """One thread opens, another opens, the first closes, the second still works; then nothing is left."""
    tensors, first_open, second_open, first_closed = example(), *(threading.Event() for _ in range(3))
    counts = {}

    def first():
        with sdpa() as calls:
            first_open.set()
            assert second_open.wait(30)
        counts["first"] = calls.served
        first_closed.set()

    def second():
        assert first_open.wait(30)
        with sdpa() as calls:
            second_open.set()
            assert first_closed.wait(30)
            F.scaled_dot_product_attention(*tensors)
        counts["second"] = calls.served

    threads = [threading.Thread(target=each) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert counts == {"first": 0, "second": 1}


def test_many_threads_at_once():
    """No call is lost or answered twice: a guard against recursion that threads shared would let calls slip by."""
    tensors = [t.detach() for t in example()]
    start = threading.Barrier(4)

    def calls_of_one():
        start.wait(30)
        for _ in range(50):
            F.scaled_dot_product_attention(*tensors)

    with sdpa("sdpa") as calls:
        threads = [threading.Thread(target=calls_of_one) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert (calls.served, calls.passed) == (200, {})
