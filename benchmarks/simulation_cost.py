"""CPU seconds a frame of simulated clips at one size, of two revisions beside each other.

    python -m phys4d.benchmarks.simulation_cost --family fall dam_break --size 480 720 --frames 49 --as after --out DIR

One clip of each family without furniture, in one process with one thread: simulation (with the draws that this clip
needed), picture, truth, encoding. Rows of the same family and label in DIR/cost.json are replaced. Rows labelled
"before" are those of revision 52cdce6, measured there by the same steps.
"""

import argparse
import inspect
import json
import os
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from phys4d.benchmarks import results
from phys4d.engine.data.clip import blob, video
from phys4d.engine.run_folder.provenance import provenance
from phys4d.simulation.categories import CATEGORIES
from phys4d.simulation.clip import measure, render
from phys4d.simulation.generate import SimulateConfig, rasteriser, sample_scene

FPS = 24
PARTS = ("simulation", "picture", "truth", "encoding")
SMOKE = "smoke"  # a row of its own in the table


def cost(family: str, size: tuple[int, int], frames: int) -> dict[str, Any]:
    """CPU seconds a frame of one clip of a family, by part. size: (height, width), pixels."""
    clock = time.process_time
    config = SimulateConfig(families=(family,), size=size, frames=frames, fps=FPS, seed=7, clutter="none")
    raster = rasteriser(*size)
    times = [clock()]
    found = sample_scene(config, 0)
    camera = found.scene.view.camera(frames, *size, FPS)
    times.append(clock())
    first_truth = "truth" in inspect.signature(render).parameters  # smoke is then marched for the truth alone
    if first_truth:
        truth = measure(found.meshes, camera, np.float32)
        times.append(clock())
        pictures = render(found.meshes, camera, found.scene.light, raster, truth)
    else:
        pictures = render(found.meshes, camera, found.scene.light, raster)
        times.append(clock())
        truth = measure(found.meshes, camera, raster)  # type: ignore[call-arg, arg-type]
    times.append(clock())
    video.encode_mp4(pictures, FPS, pixel_format=config.pixel_format)
    blob.encode(truth.stored(), blob.QUANTISATION)
    times.append(clock())
    spent = [(end - start) / frames for start, end in pairwise(times)]
    if first_truth:
        spent[1], spent[2] = spent[2], spent[1]
    return {"family": family, "category": found.scene.category, "size": list(size), "frames": frames,
            **dict(zip(PARTS, spent, strict=True)), "load": os.getloadavg()[0]}  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """Markdown: CPU seconds a frame of each category before and after, means over the families that both have."""
    rows = {(row["as"], row["family"]): row for row in found["rows"]}
    both = [family for label, family in rows if label == "after" and ("before", family) in rows]
    lines = [
        "| category | families | before, s | after, s | times faster | ms: simulation, picture, truth, encoding |",
        "|---" * 6 + "|",
    ]  # fmt: skip
    kinds = {family: SMOKE if family == SMOKE else rows["after", family]["category"] for family in both}
    for kind in (*CATEGORIES, SMOKE):
        families = [family for family in both if kinds[family] == kind]
        if not families:
            continue
        means = {
            label: [sum(rows[label, family][part] for family in families) / len(families) for part in PARTS]
            for label in ("before", "after")
        }
        old, new = sum(means["before"]), sum(means["after"])
        parts = ", ".join(f"{part * 1e3:.0f}" for part in means["after"])
        lines.append(f"| {kind} | {', '.join(families)} | {old:.2f} | {new:.2f} | {old / new:.1f} | {parts} |")
    return "\n".join([*lines, "", _origin(list(rows.values()))])


def _origin(rows: list[dict[str, Any]]) -> str:
    of = {
        label: dict.fromkeys(str(row["provenance"]["git_revision"])[:12] for row in rows if row["as"] == label)
        for label in ("before", "after")
    }
    machines = dict.fromkeys(results.machine(row["provenance"]) for row in rows)
    loads = [row["load"] for row in rows]
    revisions = "; ".join(f"{label}: revision {', '.join(found)}" for label, found in of.items())
    return f"{', '.join(machines)}, load {min(loads):.0f} to {max(loads):.0f}; {revisions}."


def main() -> None:
    """Measures, and with --out merges the rows into cost.json there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", required=True)
    parser.add_argument("--size", type=int, nargs=2, default=(480, 720), help="height and width, pixels")
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--as", choices=("before", "after"), dest="label", default="after")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.environ["LP_NUM_THREADS"] = "1"
    for family in options.family:
        row = cost(family, tuple(options.size), options.frames) | {"as": options.label, "provenance": provenance()}
        print({name: value for name, value in row.items() if name != "provenance"}, flush=True)
        if options.out is not None:
            file = options.out / "cost.json"
            kept = json.loads(file.read_text())["rows"] if file.exists() else []
            mine = (row["as"], row["family"])
            results.write(file, {"kind": "cost", "rows": [
                *(other for other in kept if (other["as"], other["family"]) != mine), row
            ]})  # fmt: skip


if __name__ == "__main__":
    main()
