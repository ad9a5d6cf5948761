"""`phys4d bench`: runs a benchmark over its cases and writes rows as JSON with provenance, tables and a plot."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch

from phys4d.benchmarks import attention, blocks, elementwise, expected, geometry, plots, results
from phys4d.benchmarks.comparison import QUICK, Effort
from phys4d.engine.errors import UserError
from phys4d.engine.output import check_folder
from phys4d.engine.run_folder.provenance import provenance
from phys4d.kernels.attention import measured

KINDS = {"attention": attention, "elementwise": elementwise, "blocks": blocks, "geometry": geometry}


def bench(
    kind: str, *, device: str | None, quick: bool, names: list[str] | None, backends: list[str] | None,
    out: Path | None, tune: bool = False,
) -> list[dict[str, Any]]:  # fmt: skip
    """Measures, prints a table after every case, and writes <kind>.json, <kind>.md and <kind>.svg to `out`.

    `tune` also writes the table from which `attention` chooses the fastest backend on this GPU.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if where.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA device here: leave it out, or give --device cpu")
    module: Any = KINDS[kind]
    known = [case.name for case in module.cases(None, torch.device("cuda"))]
    for name in names or []:
        if name not in known:
            raise UserError(f"--case {name}: expected one of {', '.join(known)}")
    if tune and (where.type != "cuda" or names or backends):
        raise UserError("--tune: needs a GPU, and all cases and peers: leave --device cpu, --case and --backend out")
    if out is not None:
        check_folder(out)
    if where.type == "cpu":
        print("no GPU: small shapes, which say nothing of any GPU", file=sys.stderr)
    rows: list[dict[str, Any]] = []
    effort = dataclasses.replace(QUICK if quick else Effort(), wanted=tuple(backends) if backends else None)
    gpu = torch.cuda.get_device_name(where) if where.type == "cuda" else ""
    for case in module.cases(names, where):
        found = expected.annotated(kind, module.measure(case, where, effort), gpu)
        rows += found
        print(table(found), flush=True)
        if out is not None:  # after every case: an interrupted run keeps its finished cases
            write(out, kind, where.type, rows)
    if tune:
        gpu = torch.cuda.get_device_name(where)
        file = measured.FOLDER / f"{measured.slug(gpu)}.json"
        results.write(file, attention.tuned(rows, gpu, provenance()["date"][:10]))
        print(f"{file}: attention's choices on this GPU")
    return rows


def write(out: Path, kind: str, device: str, rows: list[dict[str, Any]]) -> None:
    """Writes <kind>.json, and its tables and plot beside it."""
    dtype = str(KINDS[kind].DTYPE).removeprefix("torch.")
    result = {"kind": kind, "device": device, "dtype": dtype, "rows": rows, "provenance": provenance()}
    results.write(out / f"{kind}.json", result)
    show(out / f"{kind}.json", result)


def show(file: Path, result: dict[str, Any]) -> None:
    """Writes the tables and the plot of a result beside its file, as .md and .svg."""
    names = list(dict.fromkeys(row["case"] for row in result["rows"]))
    parts = [table([row for row in result["rows"] if row["case"] == name]) for name in names]
    parts.append(f"{results.origin(result['provenance'], result['device'])}.")
    file.with_suffix(".md").write_text("\n\n".join(parts) + "\n")
    file.with_suffix(".svg").write_text(plots.plot(result))


def show_again(file: Path) -> None:
    """Writes the tables and the plot of an earlier result of `bench` again, without measuring."""
    try:
        result = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}: give a file that phys4d bench --out wrote") from None
    except ValueError:
        raise UserError(f"{file}: is no JSON: give a file that phys4d bench --out wrote") from None
    missing = {"kind", "device", "dtype", "rows", "provenance"} - (result.keys() if isinstance(result, dict) else set())
    if missing:
        raise UserError(f"{file}: has no {', '.join(sorted(missing))}: give a file that phys4d bench --out wrote")
    if result["kind"] not in KINDS:
        kinds = ", ".join(KINDS)
        raise UserError(
            f"{file}: kind {result['kind']!r}: expected one of {kinds}: give a file that phys4d bench --out wrote"
        )
    show(file, result)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: the rows of one case, the fastest first, and a line for each peer that could not compute it."""
    measured = [row for row in rows if "refused" not in row]
    lines = [
        f"### {rows[0]['case']}", "",
        "| backend | part | ms (p20, p80) | host ms | predicted ms | TFLOP/s | GB/s | of the floor | peak MiB | error "
        "| bit-equal | compile s |",
        "|---" * 12 + "|",
    ]  # fmt: skip
    for row in sorted(measured, key=lambda row: (row["part"] != "forward", row["ms"])):
        numbers = [
            f"{row['ms']:.3f} ({row['ms_p20']:.3f}, {row['ms_p80']:.3f})",
            f"{row['host_ms']:.3f}" if row.get("host_ms") is not None else "",
            f"{row['predicted_ms']:.3f}" if row.get("predicted_ms") is not None else "",
            f"{row['tflops']:.1f}" if row["tflops"] else "",
            f"{row['gbps']:.0f}" if row["gbps"] is not None else "",
            f"{row['share']:.0%}" if row["share"] else "",
            f"{row['peak_mb']:.0f}" if row["peak_mb"] is not None else "",
            f"{row['error']:.1e}",
            "yes" if row["deterministic"] else "no",
            f"{row['compile_s']:.1f}" if row.get("compile_s") is not None else "",
        ]
        lines.append(f"| {row['backend']} | {row['part']} | " + " | ".join(numbers) + " |")
    refused = [f"- not {row['backend']}: {row['refused']}" for row in rows if "refused" in row]
    return "\n".join([*lines, *(["", *refused] if refused else [])])
