"""Fills the tables of docs/geometry-kernels.md from committed results, and works out what to expect of an H200.

    python -m phys4d.benchmarks.geometry_page

A kernel that works on every pixel once is bound by the bytes that must pass or by issuing its instructions, which the
compiler tells; the guesses of which shares of either a GPU reaches are those of `predictions`.
"""

import json
from pathlib import Path
from typing import Any

from phys4d.benchmarks import geometry, losses, machine_code, tree_visits
from phys4d.benchmarks.cases import GEOMETRY
from phys4d.benchmarks.predictions import ARCH, GIGAHERTZ, GPU, ISSUE_SHARE, MEMORY_SHARE, SMS
from phys4d.benchmarks.readme import filled

ROOT = Path(__file__).resolve().parent
MACHINE_CODE = ROOT / "results" / "machine-code-geometry.json"
STREAMING = ("warp", "depth-scale-shift", "depth-all", "flow-l1", "flow-laplace", "scene-flow")  # without loops
PAGE = ROOT.parent / "docs" / "geometry-kernels.md"


def result(kind: str) -> dict[str, Any]:
    """A committed result of the CPU: "losses", "warping" or "chamfer"."""
    return json.loads((ROOT / "results" / kind / f"{kind}.json").read_text())


def losses_table(found: dict[str, Any]) -> str:
    """Per case and number of threads: ours, and the best peer that keeps the same promises."""
    lines = ["| case | threads | ours ms | best peer ms | times | MiB | best peer's MiB |", "|---" * 7 + "|"]
    for row in found["rows"]:
        if row["backend"] != "ours":
            continue
        peers = [
            peer for peer in found["rows"]
            if (peer["case"], peer["threads"]) == (row["case"], row["threads"]) and peer["backend"] in losses.PEERS
        ]  # fmt: skip
        time, memory = (min(peer[key] for peer in peers) for key in ("ms", "peak_mb"))
        lines.append(
            f"| {row['case']} | {row['threads']} | {row['ms']:.1f} | {time:.1f} | {time / row['ms']:.1f} | "
            f"{row['peak_mb']:.0f} | {memory:.0f} |"
        )
    return "\n".join([*lines, "", _clips(found)])


def chamfer_table(found: dict[str, Any]) -> str:
    """Per pair of clouds and number of threads: ours and every peer in milliseconds, and how many times ours."""
    peers = list(dict.fromkeys(row["backend"] for row in found["rows"] if not row["backend"].startswith("ours")))
    lines = ["| clouds | points | threads | ours ms | " + " | ".join(peers) + " |", "|---" * (4 + len(peers)) + "|"]
    cells: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in found["rows"]:
        cells.setdefault((row["case"], row["points"], row["threads"]), {})[row["backend"]] = row
    for (case, points, threads), rows in cells.items():
        others = [f"{rows[p]['ms']:,.0f}, {rows[p]['times_ours']:,.1f} x" if p in rows else "" for p in peers]
        lines.append(f"| {case} | {points:,} | {threads} | {rows['ours']['ms']:.1f} | " + " | ".join(others) + " |")
    loads = [row[when] for row in found["rows"] for when in ("load_before", "load_after")]
    return "\n".join([*lines, "", f"Load {min(loads):.1f} to {max(loads):.1f}; {told(found)}."])


def warps_table(found: dict[str, Any]) -> str:
    """Per case and number of threads: ours and the fastest peer, forward and both ways."""
    lines = [
        "| case | threads | ours: forward, both ms | fastest peer: forward, both ms | times | MiB | its MiB |",
        "|---" * 7 + "|",
    ]  # fmt: skip
    for row in found["rows"]:
        if row["backend"] != "ours":
            continue
        peers = [
            peer for peer in found["rows"]
            if (peer["case"], peer["threads"]) == (row["case"], row["threads"]) and peer is not row
        ]  # fmt: skip
        keys = [key for key in ("forward_ms", "ms") if row[key]]
        best = {key: min((peer for peer in peers if peer[key]), key=lambda peer: peer[key]) for key in keys}
        own = ", ".join(f"{row[key]:.1f}" for key in keys)
        theirs = ", ".join(f"{best[key][key]:.1f}" for key in keys)
        names = ", ".join(dict.fromkeys(best[key]["backend"] for key in keys))
        times = ", ".join(f"{best[key][key] / row[key]:.1f}" for key in keys)
        lines.append(
            f"| {row['case']} | {row['threads']} | {own} | {theirs} ({names}) | {times} | {row['peak_mb']:.0f} | "
            f"{best[keys[-1]]['peak_mb']:.0f} |"
        )
    return "\n".join([*lines, "", _clips(found)])


def predictions_table(kernels: list[dict[str, Any]]) -> str:
    """Per streaming case and part: bytes, their floor, what issuing takes at least, and the time to expect."""
    lines = [
        f"Predicted for one {GPU}, never measured.", "",
        "| case | part | MB | floor us | issuing us | predicted us | of the floor | bound by |", "|---" * 8 + "|",
    ]  # fmt: skip
    for case in GEOMETRY:
        for part in ("forward", "backward") if case.name in STREAMING else ():
            issue = issuing(kernels, case.name, part) * 1e6
            floor = 1e3 * (geometry.floor_ms(case, part, "ours", GPU) or 0.0)  # type: ignore[arg-type]
            by = {"memory": floor / MEMORY_SHARE[part], "instructions": issue / ISSUE_SHARE}
            bound = max(by, key=lambda name: by[name])
            lines.append(
                f"| {case.name} | {part} | {geometry.touched(case, part) / 1e6:,.0f} | {floor:.0f} | {issue:.0f} | "  # type: ignore[arg-type]
                f"{by[bound]:.0f} | {floor / by[bound]:.0%} | {bound} |"
            )
    return "\n".join(lines)


def issuing(kernels: list[dict[str, Any]], case: str, part: str) -> float:
    """Seconds to issue every instruction of a case's kernels, one a clock in each quarter of every SM."""
    found = [
        kernel for kernel in kernels
        if (kernel["case"], kernel["arch"]) == (case, ARCH) and ("forward" in kernel["kernel"]) == (part == "forward")
    ]  # fmt: skip
    assert found, f"{MACHINE_CODE.name} has no {part} of {case}: run phys4d.benchmarks.machine_code --geometry --adopt"
    issued = sum(kernel["instructions"]["total"] * kernel["warps"] * kernel["programs"] for kernel in found)
    return issued / (SMS * 4 * GIGAHERTZ * 1e9)


def _clips(found: dict[str, Any]) -> str:
    shape = " x ".join(map(str, found["rows"][0]["shape"]))
    before, after = (found["load"][when][0] for when in ("before", "after"))
    return f"Clips of {shape}, load {before:.1f} to {after:.1f}; {told(found)}."


def told(found: dict[str, Any]) -> str:
    """Where and when it was measured."""
    where = found["provenance"]
    revision, day = str(where["git_revision"])[:12], where["date"][:10]
    return f"{where['cores']} cores of {where['cpu']}, torch {where['torch']}, revision {revision}, {day}"


def complete(page: str) -> str:
    """The page with its tables filled in."""
    kernels = json.loads(MACHINE_CODE.read_text())
    visits = json.loads((ROOT / "results" / "tree-visits.json").read_text())
    tables = {
        "losses": losses_table(result("losses")), "chamfer": chamfer_table(result("chamfer")),
        "warping": warps_table(result("warping")),
        "tree visits": tree_visits.table(visits["rows"]), "predictions": predictions_table(kernels),
        "machine code": machine_code.table(kernels),
    }  # fmt: skip
    for name, table in tables.items():
        page = filled(page, name, table)
    return page


def adopt(kernels: list[dict[str, Any]]) -> None:
    """Keeps what the compiler made of the kernels, and fills the page."""
    MACHINE_CODE.write_text(json.dumps(kernels, indent=1) + "\n")
    PAGE.write_text(complete(PAGE.read_text()))


if __name__ == "__main__":
    PAGE.write_text(complete(PAGE.read_text()))
