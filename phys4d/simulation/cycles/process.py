"""Runs `worker.py` in a Python that has bpy, one process a clip, and reads its pictures."""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from phys4d.engine.errors import UserError
from phys4d.simulation.cycles.description import Description

WORKER = Path(__file__).with_name("worker.py")
LAST = 400  # characters of the worker's last words that an error repeats


@cache
def blender_version(python: Path | None = None) -> str:
    """The version of bpy in a Python, this one by default; takes about a second.

    Raises UserError if it has none.
    """
    python = python or Path(sys.executable)
    code = "import bpy; print('version', bpy.app.version_string)"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, env=_environment())
    except OSError as error:
        raise UserError(f"--cycles-python {python}: cannot be run: {error.strerror}") from error
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("version ")]
    if done.returncode or not found:
        raise UserError(
            f"--renderer cycles: {python} has no module bpy: pip install \"phys4d[cycles]\" on Python 3.13, or name "
            "another Python that has it with --cycles-python"
        )
    return found[0]


def pictures(
    clip: Description, *, samples: int, seed: int, python: Path | None = None, instances: bool = False
) -> np.ndarray:
    """Renders a described clip, uint8 [T, H, W, 3]; with one thread, equal bytes for equal arguments.

    clip: what to render.
    samples: paths of light in each pixel.
    seed: of the noise.
    python: that has bpy, this one by default.
    instances: the number of the instance at the middle of each pixel, instead of a picture.

    Raises UserError if the Python has no bpy or its process fails.
    """
    import cv2

    python = python or Path(sys.executable)
    blender_version(python)
    with tempfile.TemporaryDirectory(prefix="phys4d-cycles-") as name:
        folder = Path(name)
        _write(clip, folder, samples, seed, instances)
        done = subprocess.run([python, str(WORKER), name], capture_output=True, text=True, env=_environment())
        files = [folder / f"{t:06d}.png" for t in range(len(clip.pose))]
        if done.returncode or not all(file.exists() for file in files):
            last = " ".join((done.stderr.strip() or done.stdout.strip()).split())[-LAST:]
            raise UserError(f"--renderer cycles: {python} ended with code {done.returncode}: {last}")
        frames = [np.asarray(cv2.imread(str(file), cv2.IMREAD_COLOR)) for file in files]
    return np.ascontiguousarray(np.stack(frames)[..., ::-1])


def _write(clip: Description, folder: Path, samples: int, seed: int, instances: bool) -> None:
    arrays = {"pose": clip.pose, "lens": clip.lens}
    for number, part in enumerate(clip.parts):
        for name in ("vertices", "faces", "rest", "colour"):
            arrays[f"{name}{number}"] = getattr(part, name)
    np.savez(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]
    parts = [
        {
            "instance": part.instance, "ceiling": part.ceiling, "casts": part.casts,
            "surface": part.surface.numbers(),
        }
        for part in clip.parts
    ]  # fmt: skip
    job = {
        "parts": parts, "height": clip.height, "width": clip.width, "lights": clip.lights, "sky": clip.sky,
        "samples": samples, "seed": seed, "instances": instances,
    }  # fmt: skip
    (folder / "scene.json").write_text(json.dumps(job))


def _environment() -> dict[str, str]:
    """The environment without what points another Python to the packages of this one."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
