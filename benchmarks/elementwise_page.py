"""Fills the tables of docs/elementwise-kernels.md, and a sentence of the README, from committed results.

    python -m phys4d.benchmarks.elementwise_page
"""

import json
from pathlib import Path
from typing import Any

from phys4d.benchmarks import adaptive_norm_cpu, block_memory, blocks, host_cost, machine_code, predictions
from phys4d.benchmarks.cases import ADAPTIVE_NORM, NORM_ROPE
from phys4d.benchmarks.geometry_page import told
from phys4d.benchmarks.readme import filled
from phys4d.engine.telemetry import provenance

ROOT = Path(__file__).resolve().parent
PAGE = ROOT.parent / "docs" / "elementwise-kernels.md"
README = ROOT.parent / "README.md"
CPU = ROOT / "results" / "adaptive_norm_cpu" / "adaptive_norm_cpu.json"
CASES = (*NORM_ROPE, *ADAPTIVE_NORM)


def cpu_table() -> str:
    """What was measured on a CPU, where and when; a line that it was not, until its result is committed."""
    if not CPU.exists():
        return "Not measured yet on a machine that does nothing else."
    found = json.loads(CPU.read_text())
    before, after = (found["load"][when][0] for when in ("before", "after"))
    tokens = sorted({row["tokens"] for row in found["rows"]})
    line = f"{tokens[0]:,} to {tokens[-1]:,} tokens, load {before:.1f} to {after:.1f}; {told(found)}."
    return f"{adaptive_norm_cpu.table(found['rows'])}\n\n{line}"


def host_cost_table() -> str:
    """What a call costs the host, where and when that was measured."""
    found = json.loads(host_cost.RESULT.read_text())
    return f"{host_cost.table(found['rows'])}\n\nWithout gradients, forward, backward; one thread; {told(found)}."


def block_memory_table() -> str:
    """How much whole blocks keep, and of which revision that was counted."""
    found = json.loads(block_memory.RESULT.read_text())
    where = found["provenance"]
    line = f"Counted with torch {where['torch']}, revision {str(where['git_revision'])[:12]}, {where['date'][:10]}."
    return f"{block_memory.table(found['rows'])}\n\n{line}"


def block_memory_sentence() -> str:
    """What a block of Wan2.2-TI2V-5B keeps, for the README."""
    kept = {row["backend"]: row["kept_mb"] / 1024 for row in json.loads(block_memory.RESULT.read_text())["rows"]
            if row["case"] == "wan-block"}  # fmt: skip
    return (
        f"Counted, not measured: in training a block of Wan2.2-TI2V-5B at 121 frames of 704 x 1280 keeps "
        f"{kept['stock']:.1f} GiB for the\nway back with diffusers' own code and {kept[blocks.BY_FRAME]:.1f} GiB with "
        "ours ([all blocks](docs/elementwise-kernels.md#memory-of-whole-blocks))."
    )


def complete(page: str) -> str:
    """The page with its tables filled in."""
    kernels = machine_code.of_cases(json.loads(machine_code.RESULT.read_text()), CASES)
    tables = {
        "predictions": predictions.table(CASES), "machine code": machine_code.table(kernels), "cpu": cpu_table(),
        "host cost": host_cost_table(), "block memory": block_memory_table(),
    }  # fmt: skip
    for name, table in tables.items():
        page = filled(page, name, table)
    return page


def adopt(result: Path, rows: list[dict[str, Any]]) -> None:
    """Keeps rows with where they come from, and shows them."""
    result.write_text(json.dumps({"rows": rows, "provenance": provenance()}, indent=1) + "\n")
    write()


def write() -> None:
    """Fills the page and the README of this checkout."""
    PAGE.write_text(complete(PAGE.read_text()))
    README.write_text(filled(README.read_text(), "block memory", block_memory_sentence()))


if __name__ == "__main__":
    write()
