"""Attention with norm and rotation, whichever kernel serves and wherever they happen: against float64."""

import math

import pytest
import torch

from phys4d.kernels.attention import Full, Spatial, Temporal, Window, attention, attention_reference, short_rows
from phys4d.kernels.elementwise import QKNorm, Rope, norm_rope_reference

pytestmark = pytest.mark.interpreted

GRID, HEADS = (3, 2, 5), 2


@pytest.mark.parametrize(
    ("pattern", "kind", "layout", "dim", "text"),
    [
        pytest.param(Full(), "rms_across_heads", "interleaved", 32, None, marks=[pytest.mark.slow]),
        pytest.param(Full(), "layer", "half", 16, (3, "first"), marks=[pytest.mark.slow]),
        pytest.param(Spatial(), "rms", "interleaved", 72, None, marks=[pytest.mark.slow]),
        # Unturned, the bias of keys would have no gradient.
        pytest.param(Spatial(), "layer", "interleaved", 40, (2, "last"), marks=[pytest.mark.slow]),
        pytest.param(Temporal(), "rms", "interleaved", 24, (2, "first"), marks=[pytest.mark.slow]),
        (Temporal(), "rms_across_heads", None, 16, None),
        pytest.param(Temporal(causal=True), "layer", "half", 32, None, marks=[pytest.mark.slow]),
        (Window(2, 2, 3), "rms", "half", 16, (3, "first")),
        pytest.param(Window(2, 2, 3), "rms_across_heads", "interleaved", 24, None, marks=[pytest.mark.slow]),
        pytest.param(Window(3, 1, 5), None, "interleaved", 40, (2, "last"), marks=[pytest.mark.slow]),
    ],
)
def test_out_and_all_gradients(pattern, kind, layout, dim, text, device, monkeypatch):
    if isinstance(pattern, Full | Spatial):  # by the kernels of long rows
        monkeypatch.setattr(short_rows, "LONGEST", 0)
    generator = torch.Generator().manual_seed(3)
    count, words = math.prod(GRID), text[0] if text else 0
    shape = (2, count + words, HEADS, dim)
    *qkv, dout = (torch.randn(shape, generator=generator).to(device) for _ in range(4))
    width = HEADS * dim if kind == "rms_across_heads" else dim
    number = {None: 0, "layer": 4}.get(kind, 2)
    weights = [torch.randn(width, generator=generator).to(device) for _ in range(number)]
    channels = (dim // 2, dim // 4, dim // 4)
    rope = Rope.make(GRID, [n - n % 2 for n in channels], layout=layout, device=device) if layout else None
    begin = -words if text and text[1] == "first" else 0

    leaves = [t.requires_grad_() for t in (*qkv, *weights)]
    norm = QKNorm(kind, *leaves[3:]) if kind else None
    asked = {"grid": GRID, "pattern": pattern, "text": text}
    out = attention(*leaves[:3], **asked, qk_norm=norm, rope=rope, backend="triton")
    found = torch.autograd.grad(out, leaves, dout)

    exact = [t.detach().double().requires_grad_() for t in leaves]
    exact_rope = Rope(tuple(table.double() for table in rope.tables), rope.layout) if rope else None
    ready = [
        norm_rope_reference(
            exact[i], exact[3 + i] if kind else None, exact[5 + i] if kind == "layer" else None,
            kind or "", 1e-6, exact_rope, GRID, begin,
        )
        for i in (0, 1)
    ]  # fmt: skip
    truth, _ = attention_reference(*ready, exact[2], **asked)
    right = torch.autograd.grad(truth, exact, dout.double())
    for mine, expected in zip((out, *found), (truth, *right), strict=True):
        assert (mine.double() - expected).norm() <= 3e-6 * expected.norm()
