"""Whether every kernel is right on this device: results and gradients beside float64 and torch's, and twice.

A row of a check holds what was compared, its error, the largest that it may be, and whether it passed. Errors are
relative: the norm of the difference over the norm of the right values. Where float64 takes too much memory at the
shapes of a model, gradients of attention are held to those of torch's own attention in the same dtype.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from phys4d.benchmarks import adaptive_norm, attention, geometry
from phys4d.benchmarks.attention_truth import sampled_truth
from phys4d.benchmarks.cases import (
    ADAPTIVE_NORM,
    ATTENTION,
    DTYPE,
    GEOMETRY,
    INT8,
    NORM_ROPE,
    VARIETY,
    AdaptiveNormCase,
    AttentionCase,
    GeometryCase,
    NormRopeCase,
)
from phys4d.benchmarks.gpu_run.tiny import tiny
from phys4d.benchmarks.layer_norms import EPSILON
from phys4d.kernels.attention import Temporal
from phys4d.kernels.elementwise import Rope, adaptive_norm_reference, norm_rope, norm_rope_reference

Outcome = list[Tensor]  # results, then gradients
Rows = list[dict[str, Any]]
# Gradients of two correct kernels differ by the rounding of both.
APART = {torch.bfloat16: 0.02, torch.float16: 0.003, torch.float32: 1e-4}
PEER_HEADS = 2  # the peer computes these: one with a mask of all pairs would take too much memory for all heads
TINY = 1e-6
INT8_ERROR = 0.03  # of scores from int8 products of normal numbers; docs/attention-kernels.md has about half of it
GEOMETRY_SLACK = 1e-4  # float32 sums of millions of pixels


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: of its case.
        kernels: of ours that it compiles, about.
        seconds: that it runs, without compiling, predicted.
        run: gives its rows on a device.
        essential: it runs without --full.
    """

    name: str
    kernels: int
    seconds: float
    run: Callable[[torch.device], Rows]
    essential: bool = True


def every() -> Iterator[Check]:
    """All checks, the most important first."""
    for case in ATTENTION:
        yield _of_attention(case, DTYPE, case.name, 4.0, True)
    for case in INT8:
        first = next(other for other in INT8 if other.dim == case.dim)
        yield Check(case.name, 4, 2.0, partial(of_int8, case), case is first)
    for norm in NORM_ROPE:
        yield Check(norm.name, 3, 1.5, partial(of_norm_rope, norm))
    for adaptive in ADAPTIVE_NORM:
        yield Check(adaptive.name, 3, 1.5, partial(of_adaptive_norm, adaptive))
    for field in GEOMETRY:
        kernels = {"flow_warp": 3, "splat": 4}.get(field.op, 5 if field.op == "chamfer" else 2)
        seconds = 8.0 if field.name == "chamfer-frame" else 3.0
        yield Check(field.name, kernels, seconds, partial(of_geometry, field))
    for case in VARIETY:
        yield _of_attention(case, DTYPE, case.name, 1.0, case.dim == 40)
    for dtype, word in ((torch.float16, "float16"), (torch.float32, "float32")):
        for case in (case for case in VARIETY if case.dim in (40, 96)):
            wanted = case.dim == 40 and case.name.split("-")[0] in ("full", "window")
            yield _of_attention(case, dtype, f"{case.name}-{word}", 1.0, wanted)


def _of_attention(case: AttentionCase, dtype: torch.dtype, name: str, seconds: float, essential: bool) -> Check:
    kernels = 2 if isinstance(case.pattern, Temporal) else 4
    return Check(name, kernels, seconds, partial(of_attention, case, dtype), essential)


def of_attention(case: AttentionCase, dtype: torch.dtype, device: torch.device) -> Rows:
    """Our kernel's result beside float64 on sampled queries, and its gradients beside those of torch's attention."""
    if device.type == "cpu":
        case = tiny(case)
    generator = torch.Generator(device=device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device, dtype=dtype)

    shape = (case.batch, case.tokens, case.heads, case.dim)
    q, k, v, dout = (draw(*shape) for _ in range(4))
    weights = [draw(case.dim) for _ in range(2 if case.lanes else 0)]

    def outcome(backend: str, heads: slice) -> Outcome:
        leaves = [t[:, :, heads].detach().requires_grad_() for t in (q, k, v)]
        out = attention.by_backend(case, backend)(*leaves, *weights)
        return [out.detach(), *torch.autograd.grad(out, leaves, dout[:, :, heads])]

    some = slice(0, PEER_HEADS)
    first, second = outcome("triton", slice(None)), outcome("triton", slice(None))
    same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    whole = all(bool(t.isfinite().all()) for t in first)
    del second
    own = outcome("sdpa", some)
    queries = torch.randperm(case.tokens, generator=generator, device=device)[:64].sort().values
    truth = sampled_truth(case, *(t[:, :, some] for t in (q, k, v)), *weights, queries=queries)
    limit = 2 * _error(own[0][:, queries], truth) + TINY
    rows = [_row("out", _error(first[0][:, queries][:, :, some], truth), limit)]
    for name, mine, other in zip("qkv", first[1:], own[1:], strict=True):
        rows.append(_row(f"gradient of {name}", _error(mine[:, :, some], other), APART[dtype]))
    return [*rows, _flag("finite", whole), _flag("two runs are bit-equal", same)]


def of_int8(case: AttentionCase, device: torch.device) -> Rows:
    """Attention with scores from int8 products beside float64 on sampled queries."""
    if device.type == "cpu":
        case = tiny(case)
    generator = torch.Generator(device=device).manual_seed(0)
    shape = (case.batch, case.tokens, case.heads, case.dim)
    q, k, v = (torch.randn(shape, generator=generator, device=device, dtype=DTYPE) for _ in range(3))
    first, second = (attention.by_backend(case, "int8")(q, k, v) for _ in range(2))
    queries = torch.randperm(case.tokens, generator=generator, device=device)[:64].sort().values
    some = slice(0, PEER_HEADS)
    truth = sampled_truth(case, *(t[:, :, some] for t in (q, k, v)), queries=queries)
    rows = [_row("out", _error(first[:, queries][:, :, some], truth), INT8_ERROR)]
    whole = bool(first.isfinite().all())
    return [*rows, _flag("finite", whole), _flag("two runs are bit-equal", torch.equal(first, second))]


def of_norm_rope(case: NormRopeCase, device: torch.device) -> Rows:
    """Norm and rotation and their gradients beside eager torch in the same dtype, both against float64."""
    if device.type == "cpu":
        case = tiny(case)
    generator = torch.Generator(device=device).manual_seed(0)
    shape = (1, case.tokens, case.heads, case.dim)
    lanes = case.heads * case.dim if case.kind == "rms_across_heads" else case.dim
    sizes = [shape, (lanes,), *([(lanes,)] if case.kind == "layer" else [])]
    leaves = [torch.randn(size, generator=generator, device=device, dtype=DTYPE) for size in sizes]
    given = torch.randn(shape, generator=generator, device=device, dtype=DTYPE)
    rest = (
        case.kind,
        1e-6,
        Rope.make(case.grid, case.lanes, layout=case.layout, device=device),
        case.grid,
        -case.words,
    )

    def by(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
        return lambda x, weight, bias=None: (function(x, weight, bias, *rest),)

    return _beside(by(norm_rope), by(norm_rope_reference), leaves, [given], ["x", "weight", "bias"])


def of_adaptive_norm(case: AdaptiveNormCase, device: torch.device) -> Rows:
    """Gate, residual, norm and modulation and their gradients beside the definition, both against float64."""
    if device.type == "cpu":
        case = tiny(case)
    made = adaptive_norm.inputs(case, device)
    names = list(made.tokens | made.rows)
    ours = adaptive_norm.ours(made, case.mixed)
    index = made.index if made.rows else None

    def reference(*leaves: Tensor) -> tuple[Tensor, ...]:
        by = dict(zip(names, leaves, strict=True))
        gate, weight, bias, scale, shift = map(by.get, ("gate", "weight", "bias", "scale", "shift"))
        return adaptive_norm_reference(by["x"], by["y"], gate, weight, bias, scale, shift, index, "layer", EPSILON)

    def mine(*leaves: Tensor) -> tuple[Tensor, ...]:
        return ours.call(**dict(zip(names, leaves, strict=True)))

    leaves = [t.detach() for t in (made.tokens | made.rows).values()]
    return _beside(mine, reference, leaves, list(made.gradients), names)


def of_geometry(case: GeometryCase, device: torch.device) -> Rows:
    """An operator of 4D geometry and its gradients beside eager torch in float32, both against float64."""
    if device.type == "cpu":
        case = tiny(case)

    def outcome(name: str, dtype: torch.dtype) -> Outcome | None:
        found, leaves = geometry.rivals(case, device, dtype)
        if name not in found:
            return None
        value = found[name]()
        return [value.detach(), *geometry.backward_of(value, leaves)()]

    first, second = outcome("ours", torch.float32), outcome("ours", torch.float32)
    own = outcome("eager", torch.float32)
    exact = outcome("eager", torch.float64) or outcome("ours", torch.float64)
    assert first is not None and second is not None and exact is not None
    same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    rows = []
    for number, (mine, true) in enumerate(zip(first, exact, strict=True)):
        limit = (2 * _error(own[number], true) if own else 0.0) + GEOMETRY_SLACK
        rows.append(_row("value" if number == 0 else f"gradient {number}", _error(mine, true), limit))
    return [*rows, _flag("two runs are bit-equal", same)]


def failures(rows: Rows) -> list[str]:
    """What did not pass, one line each."""
    return [
        f"{row['what']}: " + (f"{row['error']:.1e}, at most {row['limit']:.1e}" if "error" in row else "no")
        for row in rows
        if not row["passed"]
    ]


def _beside(
    ours: Callable[..., Sequence[Tensor]], reference: Callable[..., Sequence[Tensor]], leaves: Sequence[Tensor],
    gradients: Sequence[Tensor], names: Sequence[str],
) -> Rows:  # fmt: skip
    """Ours and the definition in the dtypes of the leaves, each against the definition in float64."""

    def outcome(function: Callable[..., Sequence[Tensor]], exact: bool) -> Outcome:
        given = [(t.double() if exact else t).detach().requires_grad_() for t in leaves]
        outs = function(*given)
        wanted = [t.double() if exact else t for t in gradients]
        return [*(t.detach() for t in outs), *torch.autograd.grad(outs, given, wanted)]

    first, second = outcome(ours, False), outcome(ours, False)
    same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    del second
    own, truth = outcome(reference, False), outcome(reference, True)
    words = [f"result {n}" for n in range(len(gradients))] + [f"gradient of {name}" for name in names]
    rows = [
        _row(word, _error(mine, true), 2 * _error(other, true) + TINY)
        for word, mine, other, true in zip(words, first, own, truth, strict=False)
    ]
    return [*rows, _flag("two runs are bit-equal", same)]


def _error(found: Tensor, right: Tensor) -> float:
    right = right.double()
    return float((found.double() - right).norm() / right.norm().clamp_min(1e-30))


def _row(what: str, error: float, limit: float) -> dict[str, Any]:
    return {"what": what, "error": error, "limit": limit, "passed": error <= limit}


def _flag(what: str, passed: bool) -> dict[str, Any]:
    return {"what": what, "passed": passed}


def of_case(name: str, device: torch.device) -> Rows:
    """The rows of the named check, each with its case."""
    check = next(check for check in every() if check.name == name)
    return [{"case": name, **row} for row in check.run(device)]
