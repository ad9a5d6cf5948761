"""Fills the tables of docs/geometry-kernels.md from committed results.

    python -m phys4d.benchmarks.geometry_page
"""

import json
from pathlib import Path
from typing import Any

from phys4d.benchmarks import losses
from phys4d.benchmarks.readme import filled

ROOT = Path(__file__).resolve().parent
PAGE = ROOT.parent / "docs" / "geometry-kernels.md"


def result(kind: str) -> dict[str, Any]:
    """A committed result of the CPU: "losses" or "chamfer"."""
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
    shape = " x ".join(map(str, found["rows"][0]["shape"]))
    before, after = (found["load"][when][0] for when in ("before", "after"))
    return "\n".join([*lines, "", f"Clips of {shape}, load {before:.1f} to {after:.1f}; {told(found)}."])


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


def told(found: dict[str, Any]) -> str:
    """Where and when it was measured."""
    where = found["provenance"]
    revision, day = str(where["git_revision"])[:12], where["date"][:10]
    return f"{where['cores']} cores of {where['cpu']}, torch {where['torch']}, revision {revision}, {day}"


def complete(page: str) -> str:
    """The page with its tables filled in."""
    page = filled(page, "losses", losses_table(result("losses")))
    return filled(page, "chamfer", chamfer_table(result("chamfer")))


if __name__ == "__main__":
    PAGE.write_text(complete(PAGE.read_text()))
