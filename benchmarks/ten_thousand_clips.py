"""Memory, open files and time of every command that goes over a dataset, on ten thousand small clips.

    python -m phys4d.benchmarks.ten_thousand_clips [--clips 10000] [--folder DIR] [--out DIR]

The clips are a few encodings under many keys, so that the dataset is written in seconds. Each command runs in a process
of its own, of which the resident memory and the open files are sampled every 20 ms. Growth is the memory in the last
tenth of the work minus that in its second tenth; what a command does before and after is in the peak.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phys4d.benchmarks import results
from phys4d.engine.data.clip import blob
from phys4d.engine.data.clip.video import encode_mp4
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.run_folder.provenance import provenance

FRAMES, SIZE, ENCODINGS, BATCH = 5, 32, 16, 100
MIB = 2**20
# The command line with a line of progress five times a second.
PROGRAM = """
import sys
from phys4d.engine import progress
progress._PLAIN_SECONDS = 0.2
from phys4d.cli import main
sys.exit(main(sys.argv[1:]))
"""
RUN = """
folder = "{folder}"
stages = ["backbone"]
cache = "{cache}"
[model]
width = 32
layers = 2
taps = [0, 1]
heads = {{ width = 8 }}
[backbone]
data = "{data}"
batch = {batch}
optimizer = {{ learning_rate = 1e-3 }}
loop = {{ steps = {steps}, log_every = 1 }}
"""


def write_clips(folder: Path, count: int, *, truth: bool) -> None:
    """A dataset of `count` clips; every sixteenth has the same picture and caption."""
    rng = np.random.default_rng(int(truth))  # the scenes of a teacher are other ones
    canvas = rng.integers(0, 255, (ENCODINGS, SIZE // 4, SIZE // 2, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
    intrinsics = [[[40.0, 0, SIZE / 2], [0, 40, SIZE / 2], [0, 0, 1]]] * FRAMES
    depth = np.full((FRAMES, SIZE, SIZE), 2.0, np.float32)
    kinds = []
    for number, wide in enumerate(canvas):
        video = np.stack([wide[:SIZE, t : t + SIZE] for t in range(FRAMES)])
        meta = {"caption": f"a pattern moves left {number}", "intrinsics": intrinsics, "provenance": {"number": number}}
        members = {"mp4": encode_mp4(video, 24), "json": json.dumps(meta).encode()}
        kinds.append(members | ({"truth": blob.encode({"depth": depth, "depth_valid": depth > 0})} if truth else {}))
    with ShardWriter(folder, shard_bytes=1 << 22) as writer:
        for clip in range(count):
            writer.add(f"{folder.name}{clip:06d}", kinds[clip % ENCODINGS], FRAMES, 24, SIZE, SIZE)


def watched(words: Sequence[str], title: str) -> dict[str, Any]:
    """Runs a command of phys4d.

    title: of the progress bar that counts its clips or steps.

    Returns seconds; the most resident MiB at all (peak), in the second tenth of the work (first) and in its last tenth
    (last); growth, last minus first; and open_files, at most.
    """
    since = time.monotonic()
    command = [sys.executable, "-c", PROGRAM, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stderr=pipe, stdout=nothing, text=True, env=environment) as run:
        lines: list[str] = []
        done = [0.0]
        reader = threading.Thread(target=_read, args=(run, title, lines, done))
        reader.start()
        samples: list[tuple[float, float]] = []
        files = 0
        while run.poll() is None:
            try:
                samples.append((done[0], _resident(run.pid)))
                files = max(files, len(os.listdir(f"/proc/{run.pid}/fd")))
            except (FileNotFoundError, StopIteration, PermissionError):  # it has just ended
                break
            time.sleep(0.02)
        reader.join()
    if run.returncode:
        sys.exit(f"phys4d {' '.join(words)} ended with {run.returncode}:\n" + "".join(lines[-5:]))
    first, last = _within(samples, 0.1, 0.2), _within(samples, 0.9, 1.0)
    return {
        "seconds": time.monotonic() - since, "peak": max(memory for _, memory in samples), "first": first, "last": last,
        "growth": last - first, "open_files": files,
    }  # fmt: skip


def _within(samples: Sequence[tuple[float, float]], start: float, end: float) -> float:
    """The largest of the memories in that part of the work; of all later ones where no sample fell into it, and of all
    where the command shows no progress."""
    return max(
        [memory for share, memory in samples if start <= share < end]
        or [memory for share, memory in samples if share >= start]
        or [memory for _, memory in samples]
    )


def _read(run: "subprocess.Popen[str]", title: str, lines: list[str], done: list[float]) -> None:
    """Takes up what the command prints; done: the share of the work that is done."""
    assert run.stderr is not None
    for line in run.stderr:
        lines.append(line)
        if found := re.match(rf"{title}[^:]*: (\d+)/(\d+) ", line):
            done[0] = int(found[1]) / int(found[2])


def _resident(process: int) -> float:
    """Resident memory in MiB. StopIteration for a process that has ended."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024 / MIB


def measure(root: Path, count: int) -> list[dict[str, Any]]:
    """One row for each command over `count` clips; root: an empty folder."""
    clips, scenes, labelled = root / "clips", root / "scenes", root / "labelled"
    write_clips(clips, count, truth=False)
    write_clips(scenes, 2, truth=True)
    commands = {
        "verify": (["data", "verify", clips], "verify"),
        "stats": (["data", "stats", clips], "stats"),
        "label": (
            ["label", "--videos", clips, "--out", labelled, "--scenes", scenes, "--steps", 5, "--set",
             "depth.width=4", "--set", "flow.preset=ultrafast", "--workers", 2], "label",
        ),
        "verify labels": (["data", "verify", labelled], "verify"),
        "encode": (["data", "encode", labelled, "--model", "tiny"], "encode"),
        "verify cache": (["data", "verify", labelled / "cache"], "verify"),
    }  # fmt: skip
    for name, cache in (("an epoch of videos", "off"), ("an epoch from the cache", "required")):
        run = root / f"{cache}.toml"
        steps = max(10, count // BATCH)
        run.write_text(RUN.format(folder=root / cache, cache=cache, data=labelled, batch=count // steps, steps=steps))
        commands[name] = (["train", run], "backbone")
    rows = []
    for name, (words, title) in commands.items():
        rows.append({"command": name, "clips": count} | watched([str(word) for word in words], title))
        print(table(rows).splitlines()[-1], flush=True)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line for each command."""
    lines = ["| command | clips | peak MiB | second tenth | last tenth | growth MiB | open files | s |"]
    lines.append("|---" * 8 + "|")
    lines += [
        f"| {r['command']} | {r['clips']} | {r['peak']:.0f} | {r['first']:.0f} | {r['last']:.0f} | {r['growth']:+.0f} "
        f"| {r['open_files']} | {r['seconds']:.0f} |"
        for r in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m phys4d.benchmarks.ten_thousand_clips")
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where the datasets are made and removed (default: the system's)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        rows = measure(Path(place), options.clips)
    print(table(rows))
    if options.out is not None:
        results.write(options.out / "ten-thousand-clips.json", {"rows": rows, "provenance": provenance()})
