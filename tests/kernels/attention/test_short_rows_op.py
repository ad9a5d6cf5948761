"""Attention over short rows as an operator: torch's contract, compilation, fused inputs, `explain`, and refusals."""

import pytest
import torch

from phys4d.kernels.attention import Full, Spatial, Temporal, Window, attention, attention_packed, explain, ops
from phys4d.kernels.elementwise import QKNorm, Rope
from tests.kernels.attention.short_rows_cases import GRID, inputs, norm_of, rope_of

pytestmark = pytest.mark.interpreted


def test_the_operator_keeps_torchs_contract(device):
    (q, k, v), _ = inputs(device, grid=(2, 2, 1), batch=1, heads=1)
    _, weights = norm_of("layer", 16, device)
    tables = rope_of("half", 16, device).tables
    assert len(weights) == 4
    where = (*ops.flat_pattern(Temporal(), (2, 2, 1), None), None, None, 0.25)
    for with_lse in (False, True):
        rest = (*where, with_lse, *weights, *tables, "layer", 1e-6, "half")
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
    with pytest.raises(ValueError, match=r"qk_norm rms: expected weight \[16\], got \[8\]"):
        attention(*qkv, **asked, qk_norm=QKNorm("rms", torch.ones(8, device=device), torch.ones(16, device=device)))
    with pytest.raises(ValueError, match="rope: the time table has 4 positions, the grid has 5"):
        attention(*qkv, **asked, rope=Rope.make((4, 2, 3), (8, 4, 4), device=device))
    with pytest.raises(ValueError, match="rope: needs the video's grid"):
        explain(*qkv, rope=rope_of("interleaved", 16, device))
