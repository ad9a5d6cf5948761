"""Norm and rotation of queries and keys on the shapes of real models, beside eager torch and torch.compile.

    phys4d bench elementwise [--device cpu|cuda] [--quick] [--case NAME ...] [--out DIR]
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from phys4d.benchmarks.attention import SUSTAINED
from phys4d.benchmarks.cases import DTYPE, NORM_ROPE, NormRopeCase
from phys4d.benchmarks.timing import Work, compiled, interleaved, peak_memory
from phys4d.kernels.elementwise import QKNorm, Rope, norm_rope_reference, qk_norm_rope

Both = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def measure(case: NormRopeCase, device: torch.device, *, quick: bool, wanted: list[str] | None) -> list[dict[str, Any]]:
    """One row per peer and part, as for attention; the error is the largest of q against float64, in its own unit."""
    generator = torch.Generator(device=device).manual_seed(0)
    shape = (1, case.tokens, case.heads, case.dim)
    q, k, dq, dk = (
        torch.randn(shape, generator=generator, device=device, dtype=DTYPE) for _ in range(4)
    )
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
    if device.type == "cuda":
        rivals["compiled"] = compiled(eager)
    if wanted is not None:
        rivals = {name: rival for name, rival in rivals.items() if name in wanted}
    some = slice(0, min(256, case.tokens))
    truth = norm_rope_reference(
        q.double(), weight.detach().double(), None if bias is None else bias.double(), *rest
    )[:, some]  # fmt: skip
    forwards: dict[str, Work] = {}
    backwards: dict[str, Work] = {}
    errors: dict[str, float] = {}
    same: dict[str, bool] = {}
    for name, rival in rivals.items():
        leaves = [t.detach().requires_grad_() for t in (q, k)]
        outs = rival(*leaves)
        errors[name] = float((outs[0].detach()[:, some].double() - truth).abs().max())
        forwards[name] = _without_gradients(rival, q, k)
        backwards[name] = lambda outs=outs, leaves=leaves: torch.autograd.grad(  # type: ignore[misc]
            outs, [*leaves, weight], (dq, dk), retain_graph=True
        )
        same[name] = all(torch.equal(a, b) for a, b in zip(backwards[name](), backwards[name](), strict=True))
    rows = []
    effort = {"rounds": 10 if quick else 50, "seconds": 1.0 if quick else 10.0}
    for part, works in (("forward", forwards), ("backward", backwards)):
        floor = _floor_ms(case, part, device)
        for name, timing in interleaved(works, device, **effort).items():  # type: ignore[arg-type]
            rows.append(
                {
                    "case": case.name, "backend": name, "part": part, "ms": timing.median, "ms_p20": timing.p20,
                    "ms_p80": timing.p80, "tflops": None,
                    "gbps": case.bytes(part) / timing.median / 1e6,  # type: ignore[arg-type]
                    "floor_ms": floor, "share": floor / timing.median if floor else None,
                    "peak_mb": peak_memory(works[name], device), "error": errors[name],
                    "deterministic": same[name],
                }
            )  # fmt: skip
    return rows


def _without_gradients(rival: Both, q: Tensor, k: Tensor) -> Work:
    def work() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return rival(q, k)

    return work


def _floor_ms(case: NormRopeCase, part: str, device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    for known, (_, terabytes) in SUSTAINED.items():
        if known in name:
            return case.bytes(part) / terabytes / 1e9  # type: ignore[arg-type]
    return None


def cases(names: list[str] | None, device: torch.device) -> list[NormRopeCase]:
    """The named cases, all if none is named; small ones where there is no GPU."""
    chosen = [case for case in NORM_ROPE if names is None or case.name in names]
    if device.type == "cuda":
        return chosen
    return [
        dataclasses.replace(case, name=f"{case.name}-small", grid=(4, 6, 8), heads=2, words=min(case.words, 8))
        for case in chosen
    ]
