"""How fast each kind of physics is simulated, how two processes share the work, and how many draws are dropped.

    python -m phys4d.benchmarks.simulation speed [--size 128] [--frames 25] [--clips 3] [--category NAME] --out DIR
    python -m phys4d.benchmarks.simulation workers --out DIR
    python -m phys4d.benchmarks.simulation dropped [--seeds 200] [--category NAME] --out DIR

`speed`: frames per CPU second of a process from the draw to the written clip (with rejected draws), the same number of
clips of every family, after one clip that compiles what must be compiled. `workers`: seconds of the same clips by one
and by two processes. `dropped`: the number of draws until a clip of each seed is accepted, without pictures. Categories
that are measured alone replace their rows in the result in DIR.
"""

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from phys4d.benchmarks import results
from phys4d.engine.data.clip import blob, video
from phys4d.engine.run_folder.provenance import provenance
from phys4d.simulation.categories import CATEGORIES
from phys4d.simulation.clip import measure, render
from phys4d.simulation.generate import SimulateConfig, make_clip, rasteriser, sample_scene, simulate
from phys4d.simulation.rejection_sampling import keyed_rng
from phys4d.simulation.worker_processes import one_thread_each

FRAMES, FPS = 25, 24
PARTS = ("simulation", "picture", "truth", "encoding")
# Required frames per second of one process at 128 x 128 pixels.
BARS = {
    "rigid": 25, "articulated": 25, "rope": 15, "cloth": 6, "deformable": 6, "granular": 6, "inflatable": 4,
    "fluid": 1.5, "thermodynamic": 1.5,
}  # fmt: skip


def speed(size: tuple[int, int], frames: int, clips: int, category: str) -> dict[str, Any]:
    """Frames per CPU second, and CPU seconds per frame of each part, over `clips` clips a family; run in a new process.

    size: (height, width), pixels. frames: of a clip.
    """
    config = SimulateConfig(categories=(category,), size=size, frames=frames, fps=FPS, seed=7)
    families = list(CATEGORIES[category])
    raster = rasteriser(*size)
    parts = {family: dict.fromkeys(PARTS, 0.0) for family in families}
    for index in range(-1, clips * len(families)):
        clock = time.process_time
        begun = clock()
        found = sample_scene(config, max(index, 0))
        camera = found.scene.view.camera(frames, *size, FPS)
        drawn = clock()
        pictures = render(found.meshes, camera, found.scene.light, raster)
        shown = clock()
        truth = measure(found.meshes, camera, np.float32).stored()
        known = clock()
        video.encode_mp4(pictures, FPS, pixel_format=config.pixel_format)
        blob.encode(truth, blob.QUANTISATION)
        done = clock()
        if index >= 0:
            spent = (drawn - begun, shown - drawn, known - shown, done - known)
            mine = parts[config.family(index)]
            for part, seconds in zip(PARTS, spent, strict=True):
                mine[part] += seconds
    rows = {
        family: {"fps": clips * frames / sum(spent.values()), **{name: s / clips / frames for name, s in spent.items()}}
        for family, spent in parts.items()
    }
    begun = time.process_time()
    for index in range(len(families)):
        make_clip(config, index)
    whole = len(families) * frames / (time.process_time() - begun)
    load = os.getloadavg()[0]
    return {"category": category, "size": size, "frames": frames, "fps": whole, "families": rows, "load": load}


def workers(clips: int) -> list[dict[str, Any]]:
    """Seconds of the same clips of all categories with one and two processes."""
    rows = []
    for number in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            config = SimulateConfig(
                categories=tuple(CATEGORIES), clips=clips, size=(128, 128), frames=FRAMES, fps=FPS, seed=7
            )
            begun = time.perf_counter()
            simulate(config, Path(folder) / "clips", workers=number)
            rows.append({"workers": number, "seconds": time.perf_counter() - begun, "load": os.getloadavg()[0]})
    return rows


def dropped(category: str, seeds: range) -> dict[str, Any]:
    """The number of rejected draws by reason until one clip of each seed is accepted."""
    failed: Counter[str] = Counter()
    again: Counter[str] = Counter()
    families = list(CATEGORIES[category])
    for seed in seeds:
        config = SimulateConfig(
            families=(families[seed % len(families)],), size=(128, 128), frames=FRAMES, fps=FPS, seed=seed
        )
        found = sample_scene(config, 0)
        failed.update({f"{found.scene.family}: {reason}": n for reason, n in found.dropped.items()})
        again.update({f"{found.scene.family}: {reason}": n for reason, n in found.redrawn.items()})
    return {"category": category, "clips": len(seeds), "dropped": dict(failed), "redrawn": dict(again)}


def _merged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds up the rows of each category."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        mine = found.setdefault(
            row["category"], {"category": row["category"], "clips": 0, "dropped": Counter(), "redrawn": Counter()}
        )
        mine["clips"] += row["clips"]
        mine["dropped"].update(row["dropped"])
        mine["redrawn"].update(row["redrawn"])
    return list(found.values())


def speed_table(found: dict[str, Any]) -> str:
    """Markdown: frames per second of every category, its slowest and fastest family, and the time of each part."""
    lines = [
        "| category | fps | bar | slowest family | fastest family | ms a frame: simulation, picture, truth, encoding |",
        "|---" * 6 + "|",
    ]
    for row in found["rows"]:
        families = row["families"]
        ranked = sorted(families, key=lambda name: families[name]["fps"])
        slow, fast = ranked[0], ranked[-1]
        parts = [sum(family[part] for family in families.values()) / len(families) * 1e3 for part in PARTS]
        lines.append(
            f"| {row['category']} | {row['fps']:.1f} | {BARS[row['category']]} | {slow} {families[slow]['fps']:.1f} | "
            f"{fast} {families[fast]['fps']:.1f} | {', '.join(f'{part:.1f}' for part in parts)} |"
        )
    return "\n".join([*lines, "", _origin(found)])


def workers_table(found: dict[str, Any]) -> str:
    """Seconds with one and two processes."""
    one, two = (row["seconds"] for row in found["rows"])
    text = f"{found['clips']} clips of all categories: {one:.0f} s with one process, {two:.0f} s with two: "
    return f"{text}{one / two:.2f} times as fast. {_origin(found)}"


def dropped_table(found: dict[str, Any]) -> str:
    """Markdown: the share of draws on which the simulator failed, and of those that did not show their subject."""
    lines = ["| category | clips | draws | dropped | drawn again | reasons |", "|---" * 6 + "|"]
    for row in found["rows"]:
        failed, again = sum(row["dropped"].values()), sum(row["redrawn"].values())
        draws = row["clips"] + failed + again
        reasons: Counter[str] = Counter()
        for counted in (row["dropped"], row["redrawn"]):
            for reason, number in counted.items():
                reasons[reason.partition(": ")[2]] += number
        listed = ", ".join(f"{reason} {number}" for reason, number in reasons.most_common())
        lines.append(
            f"| {row['category']} | {row['clips']} | {draws} | {failed / draws:.1%} | {again / draws:.1%} | {listed} |"
        )
    return "\n".join([*lines, "", _origin(found)])


def _origin(found: dict[str, Any]) -> str:
    """Machines, revisions and days of the rows, which may come from several runs."""
    where = [row["provenance"] for row in found["rows"]]
    machines = dict.fromkeys(results.machine(each) for each in where)
    revisions = dict.fromkeys(str(each["git_revision"])[:12] for each in where)
    days = dict.fromkeys(each["date"][:10] for each in where)
    return f"{', '.join(machines)}, revision {', '.join(revisions)}, {', '.join(days)}."


TABLES = {"speed": speed_table, "workers": workers_table, "dropped": dropped_table}


def families_table() -> str:
    """Markdown: every family with the caption of its first draw with seed 7."""
    lines = ["| category | family | a caption |", "|---" * 3 + "|"]
    for category, families in CATEGORIES.items():
        lines += [
            f"| {category} | `{family}` | {make(keyed_rng(7, 0, 0)).sentence()} |" for family, make in families.items()
        ]
    return "\n".join(lines)


def main() -> None:
    """Measures, prints the table, and with --out writes the rows to <what>.json in that folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=TABLES)
    parser.add_argument("--category", nargs="+", choices=list(CATEGORIES), default=list(CATEGORIES))
    parser.add_argument("--size", type=int, nargs="+", default=[128], help="pixels: side, or height and width")
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--clips", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    result: dict[str, Any] = {"kind": options.what}
    size = (options.size[0], options.size[-1])
    with one_thread_each():
        if options.what == "speed":
            result["rows"] = []
            for category in options.category:
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
                    result["rows"].append(fresh.submit(speed, size, options.frames, options.clips, category).result())
        elif options.what == "workers":
            result |= {"clips": options.clips, "rows": workers(options.clips)}
        else:
            with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
                parts = [range(start, min(start + 10, options.seeds)) for start in range(0, options.seeds, 10)]
                waiting = [pool.submit(dropped, category, part) for category in options.category for part in parts]
                result["rows"] = _merged([each.result() for each in waiting])
    file = None if options.out is None else options.out / f"{options.what}.json"
    for row in result["rows"]:
        row["provenance"] = provenance()
    if file is not None and file.exists() and options.what != "workers":
        result["rows"] = _with_kept(json.loads(file.read_text())["rows"], result["rows"])
    print(TABLES[options.what](result))
    if file is not None:
        results.write(file, result)


def _with_kept(kept: list[dict[str, Any]], fresh: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of an earlier run, replaced by new ones of the same category, in the order of `CATEGORIES`."""
    found = {row["category"]: row for row in [*kept, *fresh]}
    return [found[category] for category in CATEGORIES if category in found]


if __name__ == "__main__":
    main()
