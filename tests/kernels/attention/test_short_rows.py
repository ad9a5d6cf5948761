"""Attention over short rows, with norm and rotation in its loads: against the definition in float64."""

import math

import pytest
import torch

from phys4d.kernels.attention import (
    Full,
    Spatial,
    Temporal,
    attention,
    attention_backward,
    attention_reference,
    explain,
)
from phys4d.kernels.attention.backends import triton
from phys4d.kernels.attention.call import Call
from phys4d.kernels.attention.patterns import allowed
from phys4d.kernels.elementwise import QKNorm, Rope, norm_rope_reference
from tests.kernels.attention.short_rows_cases import GRID, by_torch, doubled, exactly, inputs, norm_of, rope_of, worst

pytestmark = pytest.mark.interpreted


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
