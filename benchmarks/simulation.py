"""How fast each kind of physics is simulated, how two processes share the work, and how many draws are dropped.

    python -m phys4d.benchmarks.simulation speed [--size 128] [--clips 3] [--category NAME] --out DIR
    python -m phys4d.benchmarks.simulation workers --out DIR
    python -m phys4d.benchmarks.simulation dropped [--seeds 200] [--category NAME] --out DIR
    python -m phys4d.benchmarks.simulation page

`speed`: frames per second of one process from the draw to the written clip (draws that are not used included), every
family as often as the others, after one clip that compiles what must be compiled. `workers`: the same clips by one and
by two processes. `dropped`: draws until a clip of that seed is found, without pictures. A category that is measured
alone takes its place among the others in DIR. `page` fills the tables of docs/simulation.md from the committed results.
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

from phys4d.benchmarks.readme import filled
from phys4d.engine.data import blob, video
from phys4d.engine.telemetry import provenance
from phys4d.simulation.categories import CATEGORIES
from phys4d.simulation.clip import measure, render
from phys4d.simulation.generate import SimulateConfig, make_clip, one_thread_each, rasteriser, sample_scene, simulate
from phys4d.simulation.rejection_sampling import keyed_rng

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results" / "simulation"
PAGE = ROOT.parent / "docs" / "simulation.md"
FRAMES, FPS = 25, 24
PARTS = ("simulation", "picture", "truth", "encoding")
# Frames per second at 128 pixels that one process must reach.
BARS = {
    "rigid": 25, "articulated": 25, "rope": 15, "cloth": 6, "deformable": 6, "granular": 6, "inflatable": 4,
    "fluid": 1.5, "thermodynamic": 1.5,
}  # fmt: skip


def speed(size: int, clips: int, category: str) -> dict[str, Any]:
    """Seconds of each part of a clip's making, mean over `clips` clips of each family; for a fresh process."""
    config = SimulateConfig(categories=(category,), size=(size, size), frames=FRAMES, fps=FPS, seed=7)
    families = list(CATEGORIES[category])
    raster = rasteriser(size, size)
    parts = {family: dict.fromkeys(PARTS, 0.0) for family in families}
    for index in range(-1, clips * len(families)):
        clock = time.perf_counter
        begun = clock()
        found = sample_scene(config, max(index, 0))
        camera = found.scene.view.camera(FRAMES, size, size, FPS)
        drawn = clock()
        frames = render(found.meshes, camera, found.scene.light, raster)
        shown = clock()
        truth = measure(found.meshes, camera, raster).stored()
        known = clock()
        video.encode_mp4(frames, FPS, pixel_format=config.pixel_format)
        blob.encode(truth, blob.QUANTISATION)
        done = clock()
        if index >= 0:
            spent = (drawn - begun, shown - drawn, known - shown, done - known)
            mine = parts[config.family(index)]
            for part, seconds in zip(PARTS, spent, strict=True):
                mine[part] += seconds
    rows = {
        family: {"fps": clips * FRAMES / sum(spent.values()), **{name: s / clips / FRAMES for name, s in spent.items()}}
        for family, spent in parts.items()
    }
    begun = time.perf_counter()
    for index in range(len(families)):
        make_clip(config, index)
    whole = len(families) * FRAMES / (time.perf_counter() - begun)
    return {"category": category, "size": size, "fps": whole, "families": rows, "load": os.getloadavg()[0]}


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
    """What became of the draws for one clip of each seed."""
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
    """One row for each category."""
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
    """Frames per second of every category, its slowest and fastest family, and where the time goes."""
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
    """Shares of the draws that the simulator failed on, and that did not show what they say."""
    lines = ["| category | clips | draws | dropped | drawn again | reasons |", "|---" * 6 + "|"]
    for row in found["rows"]:
        failed, again = sum(row["dropped"].values()), sum(row["redrawn"].values())
        draws = row["clips"] + failed + again
        reasons: Counter[str] = Counter()
        for counted in (row["dropped"], row["redrawn"]):
            for reason, number in counted.items():
                reasons[reason.partition(": ")[2]] += number
        told = ", ".join(f"{reason} {number}" for reason, number in reasons.most_common())
        lines.append(
            f"| {row['category']} | {row['clips']} | {draws} | {failed / draws:.1%} | {again / draws:.1%} | {told} |"
        )
    return "\n".join([*lines, "", _origin(found)])


def _origin(found: dict[str, Any]) -> str:
    """Where the rows were measured, which may be runs of their own."""
    where = [row["provenance"] for row in found["rows"]]
    machines = dict.fromkeys(f"{each['cores']} cores of {each['cpu']}" for each in where)
    revisions = dict.fromkeys(str(each["git_revision"])[:12] for each in where)
    days = dict.fromkeys(each["date"][:10] for each in where)
    return f"{', '.join(machines)}, revision {', '.join(revisions)}, {', '.join(days)}."


TABLES = {"speed": speed_table, "workers": workers_table, "dropped": dropped_table}


def families_table() -> str:
    """Every family with the caption of its first draw of seed 7."""
    lines = ["| category | family | a caption |", "|---" * 3 + "|"]
    for category, families in CATEGORIES.items():
        lines += [
            f"| {category} | `{family}` | {make(keyed_rng(7, 0, 0)).sentence()} |" for family, make in families.items()
        ]
    return "\n".join(lines)


def complete(text: str) -> str:
    """The page with its tables filled from the committed results."""
    text = filled(text, "families", families_table())
    for kind, table in TABLES.items():
        file = RESULTS / f"{kind}.json"
        if file.exists():
            text = filled(text, kind, table(json.loads(file.read_text())))
    return text


def main() -> None:
    """Measures, prints the table and writes it with the raw rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*TABLES, "page"])
    parser.add_argument("--category", nargs="+", choices=list(CATEGORIES), default=list(CATEGORIES))
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--clips", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.what == "page":
        PAGE.write_text(complete(PAGE.read_text()))
        return
    result: dict[str, Any] = {"kind": asked.what}
    with one_thread_each():
        if asked.what == "speed":
            result["rows"] = []
            for category in asked.category:
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
                    result["rows"].append(fresh.submit(speed, asked.size, asked.clips, category).result())
        elif asked.what == "workers":
            result |= {"clips": asked.clips, "rows": workers(asked.clips)}
        else:
            with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
                parts = [range(start, min(start + 10, asked.seeds)) for start in range(0, asked.seeds, 10)]
                waiting = [pool.submit(dropped, category, part) for category in asked.category for part in parts]
                result["rows"] = _merged([each.result() for each in waiting])
    file = None if asked.out is None else asked.out / f"{asked.what}.json"
    for row in result["rows"]:
        row["provenance"] = provenance()
    if file is not None and file.exists() and asked.what != "workers":
        result["rows"] = _with_kept(json.loads(file.read_text())["rows"], result["rows"])
    print(TABLES[asked.what](result))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=1) + "\n")


def _with_kept(kept: list[dict[str, Any]], fresh: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of an earlier run, with those that were measured again in their place, in the order of categories."""
    found = {row["category"]: row for row in [*kept, *fresh]}
    return [found[category] for category in CATEGORIES if category in found]


if __name__ == "__main__":
    main()
