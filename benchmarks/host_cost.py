"""Host time of an operator call, in microseconds from the call to the kernel launch.

    python -m phys4d.benchmarks.host_cost [--quick] [--out DIR]

Operators are called on tensors of a few numbers, with Triton kernels compiled for sm_90 and never launched. The time
includes Python, torch's dispatcher, autograd, the allocation of results and Triton's work before a launch; it does not
include the launch in the CUDA driver (some microseconds), nor the difference between CUDA's allocator and the CPU's.
"as registered" calls the same operator through the gradient that torch registers for it. "eager" computes the same with
torch's own operators, whose kernels do run; on so few numbers that time is negligible. `check_cost` adds what the
checks of a call take, which are a part of that.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from phys4d.benchmarks import check_cost, results
from phys4d.benchmarks.compile_only import CompileOnlyDriver
from phys4d.benchmarks.timing import Timing
from phys4d.engine.run_folder.provenance import provenance
from phys4d.kernels.attention import Temporal, attention, attention_packed
from phys4d.kernels.dispatch import backend as dispatch_backend
from phys4d.kernels.dispatch import operator
from phys4d.kernels.elementwise import QKNorm, Rope, TokenRows, adaptive_norm, norm_rope_reference, qk_norm_rope

ARCH = 90
GRID, HEADS, DIM = (4, 2, 1), 2, 16
TOKENS, WIDTH = 8, HEADS * DIM
PARTS = ("without gradients", "forward", "backward")
WAYS = ("ours", "as registered", "eager")
Outputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Case:
    """A call on its leaves, with our operators and with torch's."""

    name: str
    leaves: tuple[Tensor, ...]
    ours: Callable[..., Outputs]
    eager: Callable[..., Outputs]


def cases(backend: str = "triton") -> list[Case]:
    """One case for each kind of call that a block makes; `backend` is that of attention."""
    x, y = (_leaf(1, TOKENS, WIDTH) for _ in range(2))
    gate, scale, shift = (_leaf(1, WIDTH) for _ in range(3))
    weight, bias = _leaf(WIDTH), _leaf(WIDTH)
    tables = tuple(_leaf(2, WIDTH) for _ in range(3))
    index = torch.arange(TOKENS)[None] % 2
    rows = TokenRows.of(index, 2)
    q, k, v = (_leaf(1, TOKENS, HEADS, DIM) for _ in range(3))
    across = _leaf(WIDTH), _leaf(WIDTH)
    per_head = _leaf(DIM), _leaf(DIM)
    rope = Rope.make(GRID, (8, 4, 4))
    in_time = Rope.make(GRID, (16, 0, 0))
    temporal: Any = {"grid": GRID, "pattern": Temporal(), "backend": backend}

    def adaptive(x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor) -> Outputs:
        stream = x + gate * y
        return stream, F.layer_norm(stream, (WIDTH,)) * (1 + scale) + shift

    def residual(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Outputs:
        stream = x + y
        return stream, F.layer_norm(stream, (WIDTH,), weight, bias)

    def normed(q: Tensor, k: Tensor, kind: Any, q_weight: Tensor, k_weight: Tensor, by: Rope) -> Outputs:
        rest = None, kind, 1e-6, by, GRID, 0
        return norm_rope_reference(q, q_weight, *rest), norm_rope_reference(k, k_weight, *rest)

    def in_rows(q: Tensor, k: Tensor, v: Tensor) -> Outputs:
        rows = (t.unflatten(1, (GRID[0], -1)).transpose(1, 3) for t in (q, k, v))
        return (F.scaled_dot_product_attention(*rows).transpose(1, 3).flatten(1, 2),)

    def normed_in_rows(q: Tensor, k: Tensor, v: Tensor, q_weight: Tensor, k_weight: Tensor) -> Outputs:
        q, k = normed(q, k, "rms", q_weight, k_weight, in_time)
        return in_rows(q, k, v)

    return [
        Case(
            "gate, residual, norm, modulation", (x, y, gate, scale, shift),
            lambda x, y, gate, scale, shift: adaptive_norm(x, y, gate=gate, scale=scale, shift=shift), adaptive,
        ),
        Case(
            "the same, rows by index", (x, y, *tables),
            lambda x, y, gate, scale, shift: adaptive_norm(x, y, gate=gate, scale=scale, shift=shift, rows=rows),
            lambda x, y, *tables: adaptive(x, y, *(table[index] for table in tables)),
        ),
        Case(
            "residual, affine norm", (x, y, weight, bias),
            lambda x, y, weight, bias: adaptive_norm(x, y, weight=weight, bias=bias), residual,
        ),
        Case(
            "norm and rotation of q and k", (q, k, *across),
            lambda q, k, *w: qk_norm_rope(q, k, QKNorm("rms_across_heads", *w), rope, grid=GRID),
            lambda q, k, a, b: normed(q, k, "rms_across_heads", a, b, rope),
        ),
        Case("temporal attention", (q, k, v), lambda q, k, v: (attention(q, k, v, **temporal),), in_rows),
        Case(
            "temporal attention, norm and rotation within", (q, k, v, *per_head),
            lambda q, k, v, *w: (attention(q, k, v, **temporal, qk_norm=QKNorm("rms", *w), rope=in_time),),
            normed_in_rows,
        ),
        Case(
            "the same, packed", (_leaf(1, TOKENS, 3, HEADS, DIM), *per_head),
            lambda qkv, *w: (attention_packed(qkv, **temporal, qk_norm=QKNorm("rms", *w), rope=in_time),),
            lambda qkv, *w: normed_in_rows(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], *w),
        ),
    ]  # fmt: skip


def _leaf(*shape: int) -> Tensor:
    return torch.randn(shape).requires_grad_()


def without_launches() -> CompileOnlyDriver:
    """Makes our operators call Triton on CPU tensors, for the rest of the process, with a driver that launches nothing.

    Returns the driver, which counts the launches.
    """
    from torch._library.custom_ops import OPDEFS
    from triton.runtime import driver

    compile_only = CompileOnlyDriver(ARCH)
    driver.set_active(compile_only)
    for name, op in OPDEFS.items():
        if name.startswith("phys4d::") and "cpu" in op._backend_fns:
            op._disabled_kernel.add("cpu")
    dispatch_backend.TRITON_DEVICES.add("cpu")
    return compile_only


def measure(case: Case, driver: CompileOnlyDriver, *, calls: int, rounds: int) -> list[dict[str, Any]]:
    """One row per way and part: microseconds per call, and the number of our kernels that a call launches.

    A sample is the mean of `calls` calls; `rounds` samples of all ways are taken in turn. "eager" launches none of our
    kernels.
    """
    rows = []
    works = {way: _works(case, way) for way in WAYS}
    launches = {}
    for part in PARTS:
        for way in WAYS:
            before = driver.launches
            _mean(works[way][part], 1, way)
            launches[way] = driver.launches - before
            assert (launches[way] == 0) == (way == "eager"), (case.name, way, part)
        samples: dict[str, list[float]] = {way: [] for way in WAYS}
        for number in range(rounds + 1):
            for way in WAYS:
                taken = _mean(works[way][part], calls, way)
                if number:  # the first warms up
                    samples[way].append(taken)
        for way, times in samples.items():
            timing = Timing.of(times)
            rows.append({
                "case": case.name, "way": way, "part": part, "us": timing.median, "us_p20": timing.p20,
                "us_p80": timing.p80, "launches": launches[way],
            })  # fmt: skip
    return rows


def _works(case: Case, way: str) -> dict[str, Callable[[], Any]]:
    call = case.eager if way == "eager" else case.ours
    with _called(way):
        outs = call(*case.leaves)
    gradients = tuple(torch.ones_like(out) for out in outs)
    return {
        "without gradients": torch.no_grad()(lambda: call(*case.leaves)),
        "forward": lambda: call(*case.leaves),
        "backward": lambda: torch.autograd.grad(outs, case.leaves, gradients, retain_graph=True),
    }


def _called(way: str) -> Any:
    return mock.patch.object(operator, "_compiling", lambda: way == "as registered")


def _mean(work: Callable[[], Any], calls: int, way: str) -> float:
    with _called(way):
        begin = time.perf_counter()
        for _ in range(calls):
            work()
        return (time.perf_counter() - begin) / calls * 1e6


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: per case the number of launches and the microseconds of every part, for each way."""
    lines = [f"| call | launches | {' | '.join(f'{way}: us' for way in WAYS)} |", "|---" * (2 + len(WAYS)) + "|"]
    for case in dict.fromkeys(row["case"] for row in rows):
        found = {(row["way"], row["part"]): row for row in rows if row["case"] == case}
        launches = ", ".join(str(found["ours", part]["launches"]) for part in PARTS)
        cells = (", ".join(f"{found[way, part]['us']:.0f}" for part in PARTS) for way in WAYS)
        lines.append(f"| {case} | {launches} | {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> str:
    """The table of the page, with machine and versions."""
    origin = results.origin(result["provenance"])
    checks = f"\n\n{check_cost.table(result['checks'])}" if "checks" in result else ""  # older results have none
    return f"{table(result['rows'])}{checks}\n\nWithout gradients, forward, backward; one thread; {origin}."


def main() -> None:
    """Measures, prints the table, and with --out writes host-cost.json to that folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few calls: checks that the benchmark runs")
    parser.add_argument("--out", type=Path, help="folder for host-cost.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    checks = check_cost.measure(**({"calls": 5, "rounds": 2} if options.quick else {"calls": 1000, "rounds": 25}))
    print(check_cost.table(checks))
    driver = without_launches()
    effort = {"calls": 5, "rounds": 2} if options.quick else {"calls": 200, "rounds": 15}
    rows = [row for case in cases() for row in measure(case, driver, **effort)]
    print(table(rows))
    if options.out is not None:
        results.write(options.out / "host-cost.json", {"rows": rows, "checks": checks, "provenance": provenance()})


if __name__ == "__main__":
    main()
