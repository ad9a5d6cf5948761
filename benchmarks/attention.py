"""Attention on the shapes of real models: our kernels beside every peer that this machine has, in one run.

    phys4d bench attention [--device cpu|cuda] [--quick] [--case NAME ...] [--backend NAME ...] [--out DIR]

Rows hold forward and backward separately: median, 20th and 80th percentile in milliseconds, peak memory, error against
float64 on sampled queries (the error of "sdpa" is torch's own), whether two backward runs are bit-equal, and the share
of the floor. The floor is the time that the GPU needs for the products alone, or for the bytes alone, whichever is
longer. Peers that cannot compute a case are listed with the reason. A peer that ends in "-deterministic" runs under
`torch.use_deterministic_algorithms`.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from phys4d.benchmarks.attention_truth import rope_of, sampled_truth, text_of
from phys4d.benchmarks.cases import ATTENTION, DTYPE, AttentionCase
from phys4d.benchmarks.comparison import Effort, Needed, Runner, compare, refused, sustained
from phys4d.benchmarks.timing import Prepared, compiled, on_gpu
from phys4d.kernels.attention import Temporal, Window, attention, measured
from phys4d.kernels.attention.backends import BACKENDS, dense_rows
from phys4d.kernels.attention.call import Call
from phys4d.kernels.elementwise import QKNorm

Attend = Callable[..., Tensor]  # of q, k, v and, where the case has a norm, the weights of queries and of keys
# Backends whose kernels differ under deterministic algorithms: these are raced in both modes.
DETERMINISTIC = ("sdpa-flash", "sdpa-efficient", "flash-attn-2", "flash-attn-4", "xformers")


def small(case: AttentionCase) -> AttentionCase:
    """The same layer on a small grid with two heads, for machines without a GPU."""
    time, height, width = case.grid
    grid = min(time, 16), min(height, 6), min(width, 8)
    pattern = Window(5, 3, 4) if isinstance(case.pattern, Window) else case.pattern
    return dataclasses.replace(
        case, name=f"{case.name}-small", batch=1, grid=grid, heads=2, words=min(case.words, 8), pattern=pattern
    )


def naive(case: AttentionCase) -> Attend:
    """Attention as models write it: norm, rotate, rearrange into rows, multiply, softmax in float32, multiply."""

    def dense(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, causal: bool) -> tuple[Tensor, None]:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        scores = (q * case.dim**-0.5) @ k.transpose(-1, -2)
        if visible is not None:
            scores = scores.masked_fill(~visible, -torch.inf)
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
        return (F.softmax(scores.float(), dim=-1).to(q.dtype) @ v).transpose(1, 2), None

    def attend(q: Tensor, k: Tensor, v: Tensor, *weights: Tensor) -> Tensor:
        if case.lanes is not None:
            table = rope_of(case, q.device).tables[0].repeat_interleave(case.grid[1] * case.grid[2], dim=0)
            q, k = (
                _turned(F.rms_norm(t, (case.dim,), weight, 1e-6), table)
                for t, weight in zip((q, k), weights, strict=True)
            )
        return dense_rows.run(_call(case, q, k, v), dense)[0]

    return attend


def _turned(x: Tensor, table: Tensor) -> Tensor:
    """x [B, S, heads, D] with pairs of neighbouring lanes rotated by a table [S, D / 2, 2] of cosines and sines."""
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cosine, sine = table[:, None, :, 0], table[:, None, :, 1]
    turned = torch.stack((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
    return turned.flatten(-2).to(x.dtype)


def _prepared(case: AttentionCase, device: torch.device, weights: Sequence[Tensor]) -> dict[str, Any]:
    """The norm and rotation of a case as arguments of `attention`; empty for a case without them."""
    if case.lanes is None:
        return {}
    q_weight, k_weight = weights
    return {"qk_norm": QKNorm("rms", q_weight, k_weight), "rope": rope_of(case, device)}


def peers(
    case: AttentionCase, tensors: list[Tensor], wanted: list[str] | None
) -> tuple[dict[str, Attend], dict[str, str]]:
    """The implementations that can compute the case, by name, and for the others the reason why not."""
    call = _call(case, *tensors[:3])
    found: dict[str, Attend] = {}
    refused: dict[str, str] = {}

    for name, backend in BACKENDS.items():
        with torch.set_grad_enabled(not approximate(name)):
            reason = backend.refusal(call)
        if reason is None and name == "reference" and case.pairs > 1 << 30:
            reason = "it would keep every score in memory"
        if reason is None and name == "sdpa-math" and case.pairs > 1 << 33:
            reason = "it would keep every score in memory, 32 GiB and more"
        if reason is None:
            found[name] = by_backend(case, name)
            if name in DETERMINISTIC and case.lanes is None:
                with deterministic_mode():
                    reason = backend.refusal(call)
                if reason is None:
                    found[f"{name}-deterministic"] = deterministic(case, name)
                else:
                    refused[f"{name}-deterministic"] = reason
        else:
            refused[name] = reason
    found["auto"] = by_backend(case, "auto")
    gpu = on_gpu(tensors[0].device)
    short = isinstance(case.pattern, Temporal) or not gpu
    if isinstance(case.pattern, Window) or (not short and case.pairs > 1 << 31):
        refused["naive"] = refused["naive-compiled"] = "it would keep every score in memory"
    else:
        found["naive"] = naive(case)
        if gpu:
            found["naive-compiled"] = compiled(naive(case))
        else:
            refused["naive-compiled"] = "measured on CUDA only"
    if wanted is not None:
        found = {name: attend for name, attend in found.items() if name in wanted}
    return found, refused


def approximate(name: str) -> bool:
    """Whether this is a backend that approximates, which has no gradient."""
    return name in BACKENDS and BACKENDS[name].approximate is not None


def by_backend(case: AttentionCase, backend: str) -> Attend:
    """`attention` of the case with this backend."""
    return lambda q, k, v, *weights: attention(  # type: ignore[no-any-return]
        q, k, v, grid=case.grid, pattern=case.pattern, text=text_of(case), backend=backend,
        **_prepared(case, q.device, weights),
    )  # fmt: skip


def deterministic(case: AttentionCase, name: str) -> Attend:
    """A backend under deterministic algorithms; its backward pass must run under them too (`deterministic_mode`)."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with deterministic_mode():
            return BACKENDS[name].run(_call(case, q, k, v))[0]

    return attend


@contextlib.contextmanager
def deterministic_mode() -> Iterator[None]:
    """Deterministic algorithms, without the filling of empty tensors by which torch finds reads of them."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]  # type: ignore[attr-defined]


def measure(case: AttentionCase, device: torch.device, effort: Effort) -> list[dict[str, Any]]:
    """The rows of one case: those of `comparison.compare`, and one with the reason for each peer that cannot serve."""
    generator = torch.Generator(device=device).manual_seed(0)
    shape = (case.batch, case.tokens, case.heads, case.dim)
    q, k, v, dout = (torch.randn(shape, generator=generator, device=device, dtype=DTYPE) for _ in range(4))
    inputs = [q, k, v]
    if case.lanes is not None:
        inputs += [torch.randn(case.dim, generator=generator, device=device, dtype=DTYPE) for _ in range(2)]
    attends, reasons = peers(case, [t.detach().requires_grad_() for t in (q, k, v)], None)
    rows = [refused(case.name, name, reason) for name, reason in reasons.items() if effort.takes(name)]
    queries = torch.randperm(case.tokens, generator=generator, device=device)[:64].sort().values
    truth = sampled_truth(case, *inputs, queries=queries)

    def maker(name: str) -> Callable[[], Runner]:
        return lambda: _runner(name, attends[name], inputs, dout, queries, truth)

    def needed(part: Any, name: str) -> Needed:
        return Needed(case.flops(part), case.bytes(part), floor_ms(case, part, device, approximate(name)))

    makers = {name: maker(name) for name in attends}
    return rows + compare(case.name, makers, device, effort=effort, needed=needed)


def _runner(
    name: str, attend: Attend, inputs: list[Tensor], dout: Tensor, queries: Tensor, truth: Tensor
) -> Runner:  # fmt: skip
    leaves = [t.detach().requires_grad_() for t in inputs]

    def gradients(out: Tensor) -> tuple[Tensor, ...]:
        if not out.requires_grad:
            raise RuntimeError("its result has no gradient")
        with deterministic_mode() if name.endswith("-deterministic") else contextlib.nullcontext():
            return torch.autograd.grad(out, leaves, dout)

    both = Prepared(lambda: attend(*leaves), gradients)

    def verdict() -> tuple[float, bool]:
        error = float((attend(*inputs)[:, queries].double() - truth).abs().max())
        if approximate(name):
            return error, torch.equal(attend(*inputs), attend(*inputs))
        return error, all(torch.equal(a, b) for a, b in zip(both(), both(), strict=True))

    backward = {} if approximate(name) else {"backward": both}
    return Runner({"forward": lambda: attend(*inputs), **backward}, verdict)


def floor_ms(case: AttentionCase, part: Any, device: torch.device, int8: bool = False) -> float | None:
    """Milliseconds of the products or of the bytes, whichever takes longer, at the rates that this GPU sustains.

    int8: with scores from int8 products, which are taken to run at twice the rate.
    """
    rates = sustained(device)
    if rates is None:
        return None
    products = case.int8_ms(rates[0]) if int8 else case.flops(part) / rates[0] / 1e9
    return max(products, case.bytes(part) / rates[1] / 1e9)


def cases(names: list[str] | None, device: torch.device) -> list[AttentionCase]:
    """The named cases, all if none is named; small ones where there is no GPU."""
    chosen = [case for case in ATTENTION if names is None or case.name in names]
    return chosen if device.type == "cuda" else [small(case) for case in chosen]


def tuned(rows: list[dict[str, Any]], gpu: str, date: str) -> dict[str, Any]:
    """The table that backend "auto" reads: per case the backends by time, forward and forward + backward.

    Rows were measured with this process's torch and triton. A backend "<name>-deterministic" is <name> under
    deterministic algorithms: where there are such rows, they are ranked once more for that, together with the
    backends without such a row whose gradients were bit-equal anyway.
    """
    times: dict[tuple[str, str], dict[str, float]] = {}
    steady = set()
    for row in rows:
        if "ms" in row:
            key = row["case"], row["backend"]
            times.setdefault(key, {})[row["part"]] = row["ms"]
            if row.get("deterministic"):
                steady.add(key)
    entries = []
    for case in ATTENTION:
        found = {name: parts for (of, name), parts in times.items() if of == case.name and len(parts) == 2}
        usual = {name: parts for name, parts in found.items() if name in BACKENDS}
        exact = {name: parts for name in BACKENDS if (parts := found.get(f"{name}-deterministic"))}
        if exact:
            exact = {name: parts for name, parts in usual.items() if (case.name, name) in steady} | exact
        for training, deterministic, ranked in ((False, False, usual), (True, False, usual), (True, True, exact)):
            order = sorted(ranked, key=lambda name: ranked[name]["forward"] + training * ranked[name]["backward"])
            if order:
                call = _shape(case, training)
                traits = measured.traits(call)._replace(deterministic=deterministic)
                entries.append(measured.Entry(case.name, traits, measured.keys_per_query(call), tuple(order)))
    table = measured.Table(gpu, date, str(torch.__version__), triton.__version__, tuple(entries))
    return measured.as_json(table)


def _shape(case: AttentionCase, training: bool) -> Call:
    """The call of a case, with tensors that take no memory."""
    meta = torch.device("meta")
    shape = (case.batch, case.tokens, case.heads, case.dim)
    q = torch.empty(shape, dtype=DTYPE, device=meta, requires_grad=training)
    prepared = _prepared(case, meta, [torch.empty(case.dim, dtype=DTYPE, device=meta)] * 2)
    return dataclasses.replace(_call(case, q, q, q), **prepared)


def _call(case: AttentionCase, q: Tensor, k: Tensor, v: Tensor) -> Call:
    return Call(q, k, v, case.grid, case.pattern, text_of(case), None, None, False)
