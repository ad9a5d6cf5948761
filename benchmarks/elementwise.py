"""Elementwise operators of a block on the shapes of real models, beside torch and published kernels.

    phys4d bench elementwise [--device cpu|cuda] [--quick] [--case NAME ...] [--out DIR]

Norm and rotation of queries and keys are compared with eager torch and torch.compile; gate, residual, norm and
modulation with the peers of `adaptive_norm`.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from phys4d.benchmarks import adaptive_norm
from phys4d.benchmarks.cases import ADAPTIVE_NORM, DTYPE, NORM_ROPE, AdaptiveNormCase, NormRopeCase
from phys4d.benchmarks.comparison import Effort, Needed, Runner, compare, sustained
from phys4d.benchmarks.timing import Prepared, compiled, on_gpu
from phys4d.kernels.elementwise import QKNorm, Rope, norm_rope_reference, qk_norm_rope

Both = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Case = NormRopeCase | AdaptiveNormCase
_TOKENS = 256  # of a small case


def measure(case: Case, device: torch.device, effort: Effort) -> list[dict[str, Any]]:
    """One row per peer and part, as for attention, and one with the reason for each peer that cannot serve."""
    rows: list[dict[str, Any]] = []
    if isinstance(case, NormRopeCase):
        makers = _norm_rope(case, device)
    else:
        makers, rows = adaptive_norm.makers(case, device)
        rows = [row for row in rows if effort.takes(row["backend"])]
    rates = sustained(device)

    def needed(part: Any, name: str) -> Needed:
        moved = case.bytes(part)
        return Needed(bytes=moved, floor_ms=moved / rates[1] / 1e9 if rates else None)

    return rows + compare(case.name, makers, device, effort=effort, needed=needed)


def _norm_rope(case: NormRopeCase, device: torch.device) -> dict[str, Callable[[], Runner]]:
    """The peers of norm and rotation; their error is the largest difference of the rotated q from float64."""
    generator = torch.Generator(device=device).manual_seed(0)
    shape = (1, case.tokens, case.heads, case.dim)
    q, k, dq, dk = (torch.randn(shape, generator=generator, device=device, dtype=DTYPE) for _ in range(4))
    lanes = case.heads * case.dim if case.kind == "rms_across_heads" else case.dim
    weight = torch.rand(lanes, generator=generator, device=device).to(DTYPE).requires_grad_()
    bias = torch.rand(lanes, generator=generator, device=device).to(DTYPE) if case.kind == "layer" else None
    rope = Rope.make(case.grid, case.lanes, layout=case.layout, device=device)
    norm = QKNorm(case.kind, weight, weight, bias, bias)
    rest = (case.kind, norm.epsilon, rope, case.grid, -case.words)

    def eager(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return norm_rope_reference(q, weight, bias, *rest), norm_rope_reference(k, weight, bias, *rest)

    rivals: dict[str, Both] = {
        "ours": lambda q, k: qk_norm_rope(
            q, k, norm, rope, grid=case.grid, text=(case.words, "first") if case.words else None
        ),
        "eager": eager,
    }
    if on_gpu(device):
        rivals["compiled"] = compiled(eager)
    some = slice(0, min(256, case.tokens))
    truth = norm_rope_reference(
        q.double(), weight.detach().double(), None if bias is None else bias.double(), *rest
    )[:, some]  # fmt: skip

    def runner(rival: Both) -> Runner:
        leaves = [t.detach().requires_grad_() for t in (q, k)]

        def backward(outs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return torch.autograd.grad(outs, [*leaves, weight], (dq, dk))

        forward = torch.no_grad()(lambda: rival(q, k))
        both = Prepared(lambda: rival(*leaves), backward)

        def verdict() -> tuple[float, bool]:
            error = float((forward()[0][:, some].double() - truth).abs().max())
            return error, all(torch.equal(a, b) for a, b in zip(both(), both(), strict=True))

        return Runner({"forward": forward, "backward": both}, verdict)

    return {name: partial(runner, rival) for name, rival in rivals.items()}


def cases(names: list[str] | None, device: torch.device) -> list[Case]:
    """The named cases, all if none is named; small ones where there is no GPU."""
    chosen = [case for case in (*NORM_ROPE, *ADAPTIVE_NORM) if names is None or case.name in names]
    return chosen if device.type == "cuda" else [small(case) for case in chosen]


def small(case: Case) -> Case:
    """The case on few tokens: norm and rotation with two heads, gate and modulation with all channels."""
    name = f"{case.name}-small"
    if isinstance(case, NormRopeCase):
        return dataclasses.replace(case, name=name, grid=(4, 6, 8), heads=2, words=min(case.words, 8))
    return dataclasses.replace(adaptive_norm.cut(case, _TOKENS), name=name)
