"""Loads a written kernel repository without phys4d, and compares with torch; run as a program by the tests.

hub_loaded.py FOLDER    prints how it was loaded, and one line for each comparison: name, error, tolerance
"""

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def loaded(folder: Path) -> tuple[str, Any]:
    """The module, by Hugging Face's library where it is installed, else by importlib as that library does it."""
    try:
        load = importlib.import_module("kernels").get_local_kernel
    except (ImportError, AttributeError):
        variant = folder / "build" / "torch-universal"
        identity = json.loads((variant / "metadata.json").read_text())["id"]
        spec = importlib.util.spec_from_file_location(identity, variant / "__init__.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[identity] = module
        spec.loader.exec_module(module)
        return "importlib", module
    return "kernels", load(folder)


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def compare(name: str, found: Tensor, true: Tensor, leaves: list[Tensor], tolerance: float = 1e-5) -> None:
    """Prints the largest errors of a result and of its gradients, relative to the largest true number."""
    pairs = [(found.detach(), true.detach())]
    dout = numbers(*true.shape, seed=9).detach()
    pairs += zip(
        torch.autograd.grad(found, leaves, dout), torch.autograd.grad(true, leaves, dout, retain_graph=True),
        strict=True,
    )  # fmt: skip
    error = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    print(name, error, tolerance)


def normed_and_rotated(x: Tensor, weight: Tensor, tables: tuple[Tensor, ...], grid: tuple[int, int, int]) -> Tensor:
    """RMSNorm of every head [B, T * H * W, heads, D], then its pairs as complex numbers times those of the tables."""
    normed = F.rms_norm(x, (x.shape[-1],), weight, 1e-6)
    positions = torch.cartesian_prod(*map(torch.arange, grid)).unbind(1)
    turns = torch.cat([torch.view_as_complex(table)[at] for table, at in zip(tables, positions, strict=True)], 1)
    pairs = torch.view_as_complex(normed.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns[:, None]).flatten(-2)


def main() -> None:
    sys.modules["phys4d"] = None  # type: ignore[assignment]  # an import of it fails
    how, kernel = loaded(Path(sys.argv[1]))
    print("loaded by", how)
    q, k, v = (numbers(1, 8, 2, 16, seed=n) for n in range(3))
    true = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)
    for backend in ("auto", "triton"):
        compare(f"attention-{backend}", kernel.attention(q, k, v, backend=backend), true, [q, k, v])
    x, y = numbers(2, 6, 32, seed=3), numbers(2, 6, 32, seed=4)
    gate, scale, shift = (numbers(2, 32, seed=n) for n in (5, 6, 7))
    stream = x + gate[:, None] * y
    true = F.layer_norm(stream, (32,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]
    compare(
        "adaptive-norm", kernel.adaptive_norm(x, y, gate=gate, scale=scale, shift=shift)[1], true, [x, y, gate, scale]
    )
    rope = kernel.Rope.make((2, 2, 2), (4, 6, 6))
    weight = numbers(16, seed=8)
    true = normed_and_rotated(q, weight, rope.tables, (2, 2, 2))
    compare("norm-rope", kernel.norm_rope(q, weight, None, "rms", 1e-6, rope, (2, 2, 2)), true, [q, weight])
    for kind in (nn.LayerNorm(32), nn.RMSNorm(32)):
        layer = getattr(kernel.layers, type(kind).__name__)
        assert layer.has_backward and layer.can_torch_compile
        forward = layer.forward.__get__(kind)  # as `kernelize` does it
        compare(type(kind).__name__, forward(x), kind(x), [x, kind.weight])
        compiled = torch.compile(forward, fullgraph=True, backend="eager")
        compare(f"{type(kind).__name__}-compiled", compiled(x), kind(x), [x, kind.weight])
    compare("layer", kernel.layers.Attention()(q, k, v), kernel.attention(q, k, v), [q, k, v], 0.0)


if __name__ == "__main__":
    main()
