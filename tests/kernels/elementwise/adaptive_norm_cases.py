"""Examples of gate, residual, norm and modulation, their results by three implementations, and bounds of the errors."""

import importlib
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F

from phys4d.kernels import native
from phys4d.kernels.elementwise import TokenRows, adaptive_norm, adaptive_norm_reference

ALL = {"y", "gate", "scale", "shift"}
EXAMPLES = {  # parts, norm, rows: a number, or "mixed"
    "wan self-attention": (ALL, "layer", 1),
    "wan cross-attention": ({"y", "weight", "bias"}, "layer", 1),
    "wan frames": (ALL, "layer", 6),
    "cogvideox": (ALL | {"weight", "bias"}, "layer", 2),
    "open-sora": ({"scale", "shift"}, "layer", 2),
    "rms": (ALL | {"weight"}, "rms", 2),
    "every token its own": (ALL, "layer", 30),
    "mixed rows": (ALL | {"weight", "bias"}, "layer", "mixed"),
    "mixed rows, rms": ({"scale", "shift"}, "rms", "mixed"),
    "a gated residual": ({"y", "gate"}, None, 2),
    "modulation alone": ({"scale", "shift"}, None, 6),
    "a norm alone": (set(), "rms", 1),
    "half a modulation": ({"y", "shift"}, "layer", 2),
    "the other half": ({"y", "gate", "scale"}, "layer", 6),
}
SHAPE = (2, 15, 40)
CPU = ["definition"] + (["native"] if native.status()[0] else [])  # implementations on the CPU
NAMES = ("x", "y", "gate", "weight", "bias", "scale", "shift")


def example(parts, norm, rows, dtype=torch.float32, device="cpu", shape=SHAPE, seed=0):
    """Leaves by name, norm and rows. x is a slice of a wider tensor, y is transposed, the tables are parts of one."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*sizes):
        return torch.randn(sizes, generator=generator)

    batch, count, width = shape
    size = 7 if rows == "mixed" else rows
    table = draw(size, 6, width)
    every = {
        "x": draw(batch, count, width + 8)[..., :width] * 3 + 1, "y": draw(count, batch, width).transpose(0, 1),
        "gate": table[:, 2], "weight": draw(width), "bias": draw(width), "scale": table[:, 1], "shift": table[:, 0],
    }  # fmt: skip
    leaves = {name: t.to(device, dtype).requires_grad_() for name, t in every.items() if name in {"x", *parts}}
    index = torch.randint(5, (batch, count), generator=generator).to(device) if rows == "mixed" else None  # two unused
    return leaves, norm, None if index is None else TokenRows.of(index, size)


@contextmanager
def computed_by(implementation):
    """Inside, the operator runs on the CPU by native code or by torch's operators on pieces."""
    with pytest.MonkeyPatch.context() as patch:
        if implementation == "definition":
            module = importlib.import_module("phys4d.kernels.elementwise.adaptive_norm_native")
            patch.setattr(module, "serves", lambda *tensors: False)
        yield


def gradients(outs, leaves, seed=7):
    """Gradients of the sum of all outs with random weights."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(out.shape, generator=generator).to(out.device, out.dtype) for out in outs]
    return torch.autograd.grad(outs, list(leaves.values()), weights)


def ours(leaves, norm, rows):
    """(stream, out, gradients...)."""
    stream, out = adaptive_norm(**leaves, norm=norm, rows=rows)
    return [stream.detach(), out.detach(), *gradients((stream, out), leaves)]


def truth(leaves, norm, rows):
    """(stream, out, gradients...) by the definition in float64."""
    exact = {name: t.detach().double().requires_grad_() for name, t in leaves.items()}
    index = None if rows is None else rows.index
    outs = adaptive_norm_reference(*(exact.get(name) for name in NAMES), index, norm or "", 1e-6)
    return [*(out.detach() for out in outs), *gradients(outs, exact)]


def eager(leaves, norm, rows):
    """(stream, out, gradients...) as models write it, in the dtype of the leaves."""
    x, y, gate, weight, bias, scale, shift = (leaves.get(name) for name in NAMES)

    def of_tokens(table):
        if rows is not None:
            return table[rows.index.long()]
        return table.repeat_interleave(x.shape[0] * x.shape[1] // len(table), 0).view(x.shape)

    if y is not None:
        x = x + (y if gate is None else of_tokens(gate) * y)
    out = x
    if norm == "layer":
        out = F.layer_norm(x, x.shape[-1:], weight, bias, 1e-6)
    elif norm == "rms":
        out = F.rms_norm(x, x.shape[-1:], weight, 1e-6)
    out = out if scale is None else out * (1 + of_tokens(scale))
    out = out if shift is None else out + of_tokens(shift)
    return [x.detach(), out.detach(), *gradients((x, out), leaves)]


def hold(found, exact, others=None, tolerance=0.0):
    """Asserts that errors are at most twice those of `others` plus `tolerance` times the largest number."""
    for number, (mine, right) in enumerate(zip(found, exact, strict=True)):
        error = (mine.double() - right).abs().max()
        allowed = tolerance * right.abs().max()
        if others is not None:
            allowed = allowed + 2 * (others[number].double() - right).abs().max()
        assert mine.isfinite().all() and error <= allowed, f"result {number}: {error:.2e} > {allowed:.2e}"


def hold_definition(case, dtype, device):
    """Asserts errors of at most twice those of torch's operators plus half a unit in the last place."""
    leaves, norm, rows = example(*EXAMPLES[case], dtype=dtype, device=device)
    hold(ours(leaves, norm, rows), truth(leaves, norm, rows), eager(leaves, norm, rows), torch.finfo(dtype).eps / 2)
