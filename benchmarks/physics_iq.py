"""Our Physics-IQ scorer beside the public program: equal numbers, and how long each takes.

    python -m phys4d.benchmarks.physics_iq --public DIR [--python PROGRAM] [--clips 198] [--out DIR]

DIR is a checkout of github.com/google-deepmind/physics-IQ-benchmark (its package `physiq`), PROGRAM a Python that has
what it imports (OpenCV of our version, pandas, matplotlib, tqdm, joblib). Both score the same synthetic clips of shapes
that move, stop and rest. Every cell of both tables and every score is compared, as printed; exit code 1 where one
differs.
"""

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from phys4d.benchmarks import results
from phys4d.engine.run_folder.provenance import provenance
from phys4d.evaluate.physics_iq.layout import SECONDS, VIEWS
from phys4d.evaluate.physics_iq.run import score_folders

# Takes the folder of the benchmark, that of the videos, frames a second, the table to write, and how many processes.
PUBLIC = """
import json, os, sys, time
from physiq.binary_mask_generator import generate_binary_masks
from physiq.calculate_and_write_metrics_to_csv import process_videos
from physiq.calculate_iq_score import calculate_iq_score
from physiq.calculate_iq_score_stable import IQTable
benchmark, videos, fps, table, processes = sys.argv[1:]
real, masks = f"{benchmark}/split-videos/testing/{fps}FPS", f"{benchmark}/video-masks/real/{fps}FPS"
began = time.perf_counter()
if not os.path.exists(masks):
    generate_binary_masks(real, masks, True)
generate_binary_masks(videos, f"{table}-masks", False)
process_videos(real, videos, masks, f"{table}-masks", table, int(fps), n_processes=int(processes))
seconds = time.perf_counter() - began
scores = {"original": calculate_iq_score(table)[0]}
scores["verified"] = round(round(float(IQTable.from_csv(table).get_output_dict()["final_score_view"]), 4) * 100, 2)
print(json.dumps({"seconds": seconds, **scores}))
"""


@dataclass(frozen=True)
class Case:
    """Clips of one kind: (height, width) of the real and of the generated videos, frames a second, scenarios, whether
    the benchmark's folder has masks, as the published one does, and how often each clip is there, by other names."""

    name: str
    real: tuple[int, int]
    generated: tuple[int, int]
    fps: int
    scenarios: int = 2
    masks: bool = False
    copies: int = 1


CASES = (
    Case("16 fps", (144, 256), (96, 128), 16),
    Case("24 fps, larger than real", (96, 160), (192, 320), 24),
    Case("30 fps, with masks", (180, 320), (120, 160), 30, masks=True),
    Case("odd sides", (131, 203), (77, 115), 16),
    Case("sides below 64", (36, 52), (30, 46), 16),
)


def make_benchmark(folder: Path, case: Case, seed: int = 0) -> Path:
    """Writes a folder of the benchmark's layout, with descriptions, and folder/model, its generated videos; lossless.

    Raises OSError where a file cannot be written.
    """
    testing = folder / "benchmark" / "split-videos" / "testing" / f"{case.fps}FPS"
    testing.mkdir(parents=True)
    (folder / "model").mkdir()
    lines = ["scenario,description,category,generated_video_name"]
    count = 3 * case.scenarios * case.copies
    for index in range(2 * count):
        take, place = divmod(index, count)
        scenario, view = f"trimmed-moving-{place // 3}", VIEWS[place % 3]
        drawn = place % (3 * case.scenarios)  # which clip; it is there already where place is larger
        name = f"{{}}_testing-videos_{case.fps}FPS_{view}_take-{take + 1}_trimmed-moving-{{}}.mp4"
        path = testing / name.format(f"{index + 1:04d}", place // 3)
        kind = ("Solid Mechanics", "Fluid Dynamics")[place // 3 % 2]
        generated = f"{place + 1:04d}_{view}_{scenario}.mp4"
        caption = f'"A thing moves, number {place // 3}"'
        lines.append(f"{index + 1:04d}_{view}_take-{take + 1}_{scenario}.mp4,{caption},{kind},{generated}")
        if drawn == place:
            _write(path, _frames(case.real, case.fps, (seed, drawn), take + 1), case.fps)
        else:
            path.hardlink_to(testing / name.format(f"{take * count + drawn + 1:04d}", drawn // 3))
        if take == 0 and drawn == place:
            _write(folder / "model" / generated, _frames(case.generated, case.fps, (seed, drawn), 3), case.fps)
        elif take == 0:
            first = f"{drawn + 1:04d}_{view}_trimmed-moving-{drawn // 3}.mp4"
            (folder / "model" / generated).hardlink_to(folder / "model" / first)
    (folder / "benchmark" / "descriptions.csv").write_text("\n".join(lines) + "\n")
    return folder / "benchmark"


def _frames(size: tuple[int, int], fps: int, clip: tuple[int, int], version: int) -> Iterator[np.ndarray]:
    """Discs and boxes that move as in the clip (seed, place), each version a little off; in every sixth none moves."""
    motion, changed = np.random.default_rng(clip), np.random.default_rng((*clip, version))
    place, (height, width) = clip[1], size
    y, x = np.mgrid[:height, :width] / height
    background = (96 + 48 * np.sin(9 * x + 5 * y))[..., None] + np.array([0, 20, -30])
    things = []
    for _ in range(3):
        start, speed = motion.uniform(0.1, 0.9, 2), motion.uniform(-0.35, 0.35, 2)
        radius, colour = motion.uniform(0.06, 0.16), motion.uniform(0, 255, 3)
        things.append((start, speed + changed.normal(0, 0.06, 2), radius, colour))
    noise = changed.integers(-3, 4, (height, width, 1))
    for index in range(SECONDS * fps):
        seconds = index / fps if place % 6 != 5 else 0.0
        frame = background + noise
        for number, (start, speed, radius, colour) in enumerate(things):
            at = np.abs((start + speed * min(seconds, 1.5 + number)) % 2 - 1)
            along, down = x - at[0] * width / height, y - at[1]
            inside = np.maximum(abs(along), abs(down)) < radius if number == 1 else along**2 + down**2 < radius**2
            frame = np.where(inside[..., None], colour, frame)
        yield frame.clip(0, 255).astype(np.uint8)


def _write(path: Path, frames: Iterator[np.ndarray], fps: int) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", fps)
        stream.pix_fmt, stream.options = "yuv444p", {"qp": "0", "preset": "ultrafast"}
        for index, frame in enumerate(frames):
            if index == 0:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())


def public_scores(
    benchmark: Path, videos: Path, case: Case, table: Path, checkout: Path, python: str, processes: int = 0
) -> dict[str, Any]:
    """Scores and seconds of the public program, which also writes its table; CalledProcessError where it fails."""
    words = [python, "-c", PUBLIC, *map(str, (benchmark, videos, case.fps, table, processes))]
    paths = os.pathsep.join([str(checkout), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths})
    return dict(json.loads(done.stdout.splitlines()[-1]))


def cells(table: str) -> list[dict[str, str]]:
    """The rows of a table of measures, column -> text."""
    csv.field_size_limit(1 << 24)
    return list(csv.DictReader(table.splitlines()))


def digest(table: list[dict[str, str]]) -> dict[str, str]:
    """What the tests compare: the numbers of every column, joined, those of lists as their SHA-256."""
    joined = {name: " ".join(row[name] for row in table) for name in table[0]}
    return {
        name: hashlib.sha256(text.encode()).hexdigest() if text.startswith("[") else text
        for name, text in joined.items()
    }


def expected(checkout: Path, python: str) -> dict[str, Any]:
    """The public program's numbers of all cases."""
    found = {}
    for case in CASES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            benchmark, table = make_benchmark(folder, case), folder / "public.csv"
            scores = public_scores(benchmark, folder / "model", case, table, checkout, python)
            numbers = digest(cells(table.read_text()))
        found[case.name] = {"original": scores["original"], "verified": scores["verified"], "table": numbers}
    return found


def compare(case: Case, checkout: Path, python: str, workers: int, processes: Sequence[int]) -> list[dict[str, Any]]:
    """Both programs on the clips of a case: cells that differ, scores, seconds; a row for each number of processes of
    the public one, 0 for its default.
    """
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        benchmark = make_benchmark(folder, case)
        if case.masks:  # as the published folder has them: made by the public program
            public_scores(benchmark, folder / "model", case, folder / "first.csv", checkout, python)
        began = time.perf_counter()
        ours = score_folders([folder / "model"], benchmark, folder / "out", workers=workers, say=lambda line: None)
        seconds = time.perf_counter() - began
        mine = cells((folder / "out" / "model.csv").read_text())
        for number in processes:
            table = folder / f"public-{number}.csv"
            public = public_scores(benchmark, folder / "model", case, table, checkout, python, number)
            others = cells(table.read_text())
            pairs = [(a[name], b[name]) for a, b in zip(mine, others, strict=True) for name in b]
            rows.append({
                **asdict(case), "cells": len(pairs), "different": sum(a != b for a, b in pairs),
                "original": [ours["model"]["original"], public["original"]],
                "verified": [ours["model"]["verified"], public["verified"]],
                "seconds": round(seconds, 2), "public_seconds": round(public["seconds"], 2),
                "workers": workers, "public_processes": number,
            })  # fmt: skip
            print(json.dumps(rows[-1]), flush=True)
    return rows


def summary(result: dict[str, Any]) -> str:
    """The table of the page: cells that are equal, scores, and seconds of both programs."""
    lines = ["| clips | cells | different | Original | Verified | our seconds (processes) | the public program's |"]
    lines.append("|---" * 7 + "|")
    for row in result["rows"]:
        scores = [" and ".join(f"{value:.2f}" for value in row[name]) for name in ("original", "verified")]
        ours = f"{row['seconds']:.1f} ({row['workers']})"
        public = f"{row['public_seconds']:.1f} ({max(1, row['public_processes'])})"
        columns = (row["name"], row["cells"], row["different"], *scores, ours, public)
        lines.append("| " + " | ".join(map(str, columns)) + " |")
    commit, opencv = result["public"][:12], result["opencv"]
    lines += ["", f"Public program {commit}, OpenCV {opencv}. {results.origin(result['provenance'])}"]
    return "\n".join(lines)


def main() -> int:
    """Compares all cases, then times a whole benchmark of clips."""
    parser = argparse.ArgumentParser(prog="python -m phys4d.benchmarks.physics_iq", description=__doc__)
    parser.add_argument("--public", type=Path, required=True, metavar="DIR", help="checkout of the public program")
    parser.add_argument("--python", default=sys.executable, help="that runs it (default: this one)")
    parser.add_argument("--clips", type=int, default=0, help="also time so many generated clips")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, metavar="DIR", help="for physics-iq.json")
    parser.add_argument("--expected", type=Path, metavar="FILE", help="only write the public program's numbers")
    options = parser.parse_args()
    git = ["git", "-C", str(options.public), "rev-parse", "HEAD"]
    origin = {"public": subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()}
    origin["opencv"] = cv2.__version__
    if options.expected is not None:
        results.write(options.expected, {**origin, "cases": expected(options.public, options.python)})
        return 0
    rows = [row for case in CASES for row in compare(case, options.public, options.python, options.workers, [0])]
    if options.clips:
        name, copies = f"{options.clips} clips of 480x832", max(1, options.clips // 9)
        large = Case(name, (480, 832), (480, 832), 16, 3, masks=True, copies=copies)
        rows += compare(large, options.public, options.python, options.workers, [0, options.workers])
    if options.out is not None:
        results.write(options.out / "physics-iq.json", {"rows": rows, **origin, "provenance": provenance()})
    same = all(len(set(row[key])) == 1 for row in rows for key in ("original", "verified"))
    return 0 if same and not any(row["different"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
