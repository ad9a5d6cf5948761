"""Cost of a frame, and pictures, of both renderers of simulated clips: OpenGL, and Blender's Cycles.

    python -m phys4d.benchmarks.renderers cost --cycles-python PYTHON --out benchmarks/results/simulation
    python -m phys4d.benchmarks.renderers sheet --cycles-python PYTHON --out docs/renderers.jpg

cost: CPU seconds a frame of 256 x 256 pixels with one thread, of the picture alone; of Cycles at 16 samples, with the
denoiser, and apart the seconds until the first frame begins: the process, bpy, meshes and materials. Rows of the same
family in DIR/renderers.json are replaced.
sheet: one frame of a clip of each category, OpenGL on the left, Cycles on the right.
"""

import argparse
import json
import os
import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from phys4d.benchmarks import results
from phys4d.engine.run_folder.provenance import provenance
from phys4d.simulation.clip import behind_smoke, render
from phys4d.simulation.cycles.description import Description, describe
from phys4d.simulation.cycles.process import blender_version, pictures
from phys4d.simulation.generate import rasteriser, sample_scene
from phys4d.simulation.rejection_sampling import SampledScene, keyed_rng
from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.settings import SimulateConfig

SIZE, SAMPLES, FRAMES, FPS = 256, 16, 25, 24
COST = ("fall", "cover", "dam_break")
# A family of each category, with a seed and a frame that show its event.
SHEET = (
    ("collision", 7, 8), ("cabinet", 2, 6), ("hoist", 4, 6), ("cover", 2, 6), ("wobble", 5, 6), ("air_ball", 2, 6),
    ("column", 2, 10), ("dam_break", 2, 6), ("glowing_pendulum", 2, 6), ("smoke", 3, 12),
)  # fmt: skip
ACROSS = 2  # pairs in a row of the sheet


def clip(family: str, seed: int) -> tuple[SampledScene, Camera, Description]:
    """A sampled clip with furniture, its camera and its description."""
    config = SimulateConfig(
        families=(family,), size=(SIZE, SIZE), frames=FRAMES, fps=FPS, seed=seed, clutter="varied", camera="moving"
    )
    found = sample_scene(config, 0)
    camera = found.scene.view.camera(FRAMES, SIZE, SIZE, FPS)
    return found, camera, describe(found.scene, found.meshes, camera, keyed_rng(seed, 0, "cycles"))


def only(described: Description, frames: slice) -> Description:
    """The description of some of the frames."""
    parts = [
        replace(
            part, vertices=part.vertices[frames] if len(part.vertices) > 1 else part.vertices,
            colour=part.colour[frames] if part.colour.ndim == 3 else part.colour,
        )
        for part in described.parts
    ]  # fmt: skip
    return replace(described, parts=parts, pose=described.pose[frames], lens=described.lens[frames])


def cost(family: str, python: Path | None) -> dict[str, Any]:
    """CPU seconds a frame of both renderers on a clip of a family, and Cycles' seconds before the first frame."""
    found, camera, described = clip(family, 7)
    raster, began = rasteriser(SIZE, SIZE), time.process_time()
    render(found.meshes, camera, found.scene.light, raster)
    of_raster = (time.process_time() - began) / FRAMES
    spent = []
    for count in (1, 3):
        before = _children()
        pictures(only(described, slice(0, count)), samples=SAMPLES, seed=1, python=python)
        spent.append(_children() - before)
    frame = (spent[1] - spent[0]) / 2
    return {
        "family": family, "category": found.scene.category, "size": SIZE, "samples": SAMPLES, "raster": of_raster,
        "cycles": frame, "start": spent[0] - frame, "bpy": blender_version(python), "load": os.getloadavg()[0],
    }  # fmt: skip


def _children() -> float:
    """CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(found: dict[str, Any]) -> str:
    """Markdown: CPU seconds a frame of both renderers, by family."""
    rows = found["rows"]
    lines = ["| category | family | raster, s | Cycles, s | Cycles' start of a clip, s |", "|---" * 5 + "|"]
    lines += [
        f"| {row['category']} | {row['family']} | {row['raster']:.2f} | {row['cycles']:.1f} | {row['start']:.1f} |"
        for row in rows
    ]
    first = rows[0]
    loads = [row["load"] for row in rows]
    where = f"{results.machine(first['provenance'])}, load {min(loads):.0f} to {max(loads):.0f}, bpy {first['bpy']}"
    return "\n".join([*lines, "", f"{where}, {results.version(first['provenance'])}."])


def sheet(python: Path | None) -> np.ndarray:
    """Pairs of pictures by OpenGL and by Cycles, uint8 [rows, columns, 3]."""
    pairs = []
    for family, seed, frame in SHEET:
        found, camera, described = clip(family, seed)
        one = slice(frame, frame + 1)
        drawn = render(found.meshes, camera, found.scene.light, rasteriser(SIZE, SIZE))[one]
        traced = np.zeros((FRAMES, SIZE, SIZE, 3), np.uint8)
        traced[one] = pictures(only(described, one), samples=SAMPLES, seed=1, python=python)
        pairs.append(np.concatenate([drawn[0], behind_smoke(found.meshes, camera, traced)[frame]], axis=1))
        print(family, flush=True)
    rows = [np.concatenate(pairs[first : first + ACROSS], axis=1) for first in range(0, len(pairs), ACROSS)]
    return np.concatenate(rows)


def main() -> None:
    """Measures, or makes the sheet."""
    import cv2

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "sheet"))
    parser.add_argument("--family", nargs="+", default=list(COST), help="of cost")
    parser.add_argument("--cycles-python", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    os.environ["LP_NUM_THREADS"] = "1"
    if options.what == "sheet":
        picture = np.ascontiguousarray(sheet(options.cycles_python)[..., ::-1])
        cv2.imwrite(str(options.out), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
        return
    for family in options.family:
        row = cost(family, options.cycles_python) | {"provenance": provenance()}
        print({name: value for name, value in row.items() if name != "provenance"}, flush=True)
        file = options.out / "renderers.json"
        kept = json.loads(file.read_text())["rows"] if file.exists() else []
        others = [old for old in kept if old["family"] != family]
        results.write(file, {"kind": "renderers", "rows": [*others, row]})


if __name__ == "__main__":
    main()
