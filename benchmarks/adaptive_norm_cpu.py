"""Gate, residual, norm and modulation on a CPU beside the models' own code and torch.compile, with 1 and 2 threads.

    python -m phys4d.benchmarks.adaptive_norm_cpu [--quick] [--case NAME ...] [--out DIR]

Cases are those of `phys4d bench elementwise` with all channels on fewer tokens, in float32 and in bfloat16, with the
same rivals (see `adaptive_norm`). Every rival is timed once per round, in turn. Memory is the growth of a fresh
process's peak resident set during one forward and backward, as in `losses`; an earlier one warms torch and its compiler
up, and its memory is returned to the system. torch.compile compiles for the number of threads that it is timed with.
"""

from collections.abc import Sequence
from typing import Any

import torch

from phys4d.benchmarks import adaptive_norm, cpu_suite, results
from phys4d.benchmarks.adaptive_norm import Inputs, Rival
from phys4d.benchmarks.cases import ADAPTIVE_NORM
from phys4d.benchmarks.timing import Work, interleaved

SHAPE, QUICK, AXES = (2048,), (64,), "tokens"
DTYPE = "float32 and bfloat16, by case"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CASES = tuple(f"{case.name}, {dtype}" for case in ADAPTIVE_NORM for dtype in DTYPES)
PARTS = ("forward", "backward")


def prepared(case: str, tokens: int) -> tuple[Inputs, dict[str, Rival]]:
    """Inputs of a case on at most `tokens` tokens, and its implementations without those of torch.compile."""
    name, dtype = case.split(", ")
    chosen = adaptive_norm.cut(next(c for c in ADAPTIVE_NORM if c.name == name), tokens)
    made = adaptive_norm.inputs(chosen, torch.device("cpu"), DTYPES[dtype])
    return made, adaptive_norm.rivals(chosen, made)


def _both(rival: Rival, made: Inputs) -> tuple[Any, ...]:
    """One forward and backward that keeps the results alive until its end."""
    outs = rival.call(**rival.leaves)
    return outs, torch.autograd.grad(outs, list(rival.leaves.values()), made.gradients)


def grown(case: str, rival: str, shape: Sequence[int]) -> float:
    """MiB by which the peak resident set of this fresh process grows during one forward and backward."""
    made, found = prepared(case, *shape)
    if rival not in found:
        found = adaptive_norm.compilations(found, {"compiled": None})
    _both(found[rival], made)  # warms torch and its compiler up
    cpu_suite.release()
    return cpu_suite.growth(lambda: _both(found[rival], made))


def measure(case: str, shape: Sequence[int], *, rounds: int, threads: Sequence[int]) -> list[dict[str, Any]]:
    """One row per rival and number of threads: milliseconds forward and backward, MiB, error of the result."""
    made, eager = prepared(case, *shape)
    truth = adaptive_norm.truth(made)
    names = [*eager, *adaptive_norm.compilations(eager, {"compiled": None})]
    memory = {name: cpu_suite.memory("adaptive_norm_cpu", case, name, shape) for name in names}
    rows, device = [], torch.device("cpu")
    for number, load in cpu_suite.over_threads(threads):
        found = eager | adaptive_norm.compilations(eager, {"compiled": None})
        works: dict[str, dict[str, Work]] = {
            "forward": {name: rival.forward() for name, rival in found.items()},
            "backward": {name: rival.backward(made.gradients) for name, rival in found.items()},
        }
        times = {part: interleaved(works[part], device, rounds=rounds, seconds=60) for part in PARTS}
        for name in found:
            row: dict[str, Any] = {
                "case": case, "tokens": made.index.numel(), "backend": name, "threads": number,
                "peak_mb": memory[name], "load": load,
                "error": float((works["forward"][name]()[1].double() - truth).abs().max()),
            }  # fmt: skip
            for part in PARTS:
                timing = times[part][name]
                row |= {f"{part}_ms": timing.median, f"{part}_p20": timing.p20, f"{part}_p80": timing.p80}
            rows.append(row)
    return rows


def best(rows: list[dict[str, Any]], row: dict[str, Any], word: str) -> dict[str, dict[str, Any]]:
    """"forward_ms", "backward_ms" and "peak_mb" -> the row of the best rival of `row` whose name begins with `word`."""
    rivals = [r for r in cpu_suite.alongside(rows, row) if r["backend"].startswith(word)]
    return {key: min(rivals, key=lambda r: r[key]) for key in ("forward_ms", "backward_ms", "peak_mb")}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: per case and number of threads ours, the best of eager torch and of torch.compile, and their ratios."""
    lines = [
        "| case | threads | ours: forward, backward ms | MiB | eager | MiB | eager / ours | compiled | MiB "
        "| compiled / ours |",
        "|---" * 10 + "|",
    ]  # fmt: skip
    for row in rows:
        if row["backend"] != "ours":
            continue
        cells = [f"{row['forward_ms']:.1f}, {row['backward_ms']:.1f} | {row['peak_mb']:.0f}"]
        for word in ("eager", "compiled"):
            others = best(rows, row, word)
            forward, backward, memory = (others[key][key] for key in others)
            ratios = ", ".join(f"{others[key][key] / max(row[key], 1e-3):.2f}" for key in others)
            cells.append(f"{forward:.1f}, {backward:.1f} | {memory:.0f} | {ratios}")
        lines.append(f"| {row['case']} | {row['threads']} | " + " | ".join(cells) + " |")
    legend = """"eager" and "compiled" are the best of the model's own code and, where several tokens share a row, of
        code written by hand for that; the ratios are of forward, backward and memory, above 1 where ours is
        better."""
    return "\n".join([*lines, "", " ".join(legend.split())])


def summary(result: dict[str, Any]) -> str:
    """The table of the page, with tokens, load, machine and versions."""
    tokens = sorted({row["tokens"] for row in result["rows"]})
    line = f"{tokens[0]:,} to {tokens[-1]:,} tokens, {results.load_during(result)}"
    return f"{table(result['rows'])}\n\n{line}; {results.origin(result['provenance'])}."


if __name__ == "__main__":
    cpu_suite.run("adaptive_norm_cpu", globals())
