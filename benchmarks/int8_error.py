"""The error of attention with scores from int8 products, on shapes of models, beside that of bfloat16.

    python -m phys4d.benchmarks.int8_error --out DIR

Two heads of each layer with full attention, computed on the CPU by the definition (`int8_attention_reference`) for a
block of 128 queries that see all keys, against float64 of the same bfloat16 numbers. Inputs: normal; queries four times
as large, so that few keys take most of the weight; keys with an offset for each channel ten times as large as they.
Errors are |difference| / |result|, both as the norm over all numbers, and the largest difference over the largest
number. The kernels round the weights to bfloat16 as well, as bfloat16's own error does.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from phys4d.benchmarks import results
from phys4d.benchmarks.cases import ATTENTION, INT8, AttentionCase
from phys4d.benchmarks.comparison import SUSTAINED
from phys4d.engine.run_folder.provenance import provenance
from phys4d.kernels.attention import attention, attention_reference
from phys4d.kernels.attention.int8_reference import QUERIES

INPUTS = ("normal", "sharp", "offset")
GPU = "H200"


def drawn(case: AttentionCase, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """q [1, 128, 2, D] and k, v [1, S, 2, D], bfloat16."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, tokens, 2, case.dim, generator=generator) for tokens in (QUERIES, case.tokens, case.tokens)
    )
    if kind == "sharp":
        q = 4 * q
    if kind == "offset":
        k = k + 10 * torch.randn(case.dim, generator=generator)
    return q.bfloat16(), k.bfloat16(), v.bfloat16()


def errors(found: Tensor, truth: Tensor) -> tuple[float, float]:
    """Of the norms, and of the largest numbers."""
    difference = found.double() - truth
    return (difference.norm() / truth.norm()).item(), (difference.abs().max() / truth.abs().max()).item()


def measure() -> list[dict[str, Any]]:
    """One row for each case and kind of inputs."""
    rows = []
    for case in (case for case in ATTENTION if f"{case.name}-int8" in {other.name for other in INT8}):
        for kind in INPUTS:
            q, k, v = drawn(case, kind)
            truth = attention_reference(q.double(), k.double(), v.double())[0]
            found = {name: errors(attention(q, k, v, backend=name), truth) for name in ("int8", "sdpa")}
            rows.append({"case": case.name, "dim": case.dim, "keys": case.tokens, "inputs": kind, "errors": found})
    return rows


def floors(name: str) -> str:
    """The floors of a case on `GPU`: products of both kinds, and bytes."""
    case = next(case for case in ATTENTION if case.name == name)
    tflops, terabytes = SUSTAINED[GPU]
    whole, half = case.flops("forward"), case.int8_ms(tflops)
    return (
        f"{half:.1f} ms ({whole / 2e9:,.0f} G operations of int8, {whole / 2e9:,.0f} GFLOP), bfloat16 "
        f"{whole / tflops / 1e9:.1f} ms; bytes {case.bytes('forward') / terabytes / 1e9:.2f} ms"
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: errors of int8 and of bfloat16, by norm and by the largest number."""
    lines = [
        "| case | D | keys | inputs | int8: norm | int8: largest | bfloat16: norm | bfloat16: largest |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        cells = [row["case"], str(row["dim"]), f"{row['keys']:,}", row["inputs"]]
        cells += [f"{error:.1e}" for name in ("int8", "sdpa") for error in row["errors"][name]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(result: dict[str, Any]) -> str:
    """The table of the page, the floors of its cases and the versions."""
    names = dict.fromkeys(row["case"] for row in result["rows"])
    lines = "\n".join(f"- {name}: {floors(name)}" for name in names)
    return (
        f"{table(result['rows'])}\n\nFloors on one {GPU}, where products of int8 are taken to run at twice the rate of "
        f"bfloat16:\n\n{lines}\n\n{results.version(result['provenance'])}"
    )


def main() -> None:
    """Measures, prints the table, and with --out writes int8-error.json to that folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for int8-error.json")
    options = parser.parse_args()
    rows = measure()
    print(table(rows))
    if options.out is not None:
        results.write(options.out / "int8-error.json", {"rows": rows, "provenance": provenance()})


if __name__ == "__main__":
    main()
