"""What reading datasets costs beside a training step.

    python -m phys4d.benchmarks.loading [--quick] [--out DIR]

Three measurements, each on clips that it makes, read from the page cache:

- *index*: clips whose three members are read through the index and compared with their SHA-256, in samples per second,
  by one thread.
- *decoding*: frames per second of `Clips`' own stream, with all checks, beside PyAV's loop alone with as many threads,
  in turn.
- *wait*: the share of a step of 50 ms (a pause, as for a GPU) in which `Clips.batch` keeps training waiting, with
  latents read from a cache, without arrays as `backbone` reads them and with those of `finetune`.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from phys4d.batch import Batch
from phys4d.benchmarks import results
from phys4d.benchmarks.decoding import CASES, Effort, alone, encode, scene
from phys4d.caches.lookup import find_cache
from phys4d.caches.source import source_of
from phys4d.caches.write import encode_dataset
from phys4d.clips import TRUTH, Clips
from phys4d.engine.data.clip import blob
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.decoders.interface import Request
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.data.stream import stream
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.run_folder.provenance import provenance

STEP = 0.05  # seconds
BATCH = 4  # clips
Size = tuple[int, int, int]


def truth(size: Size, seed: int) -> dict[str, np.ndarray]:
    """Arrays of a clip of `size` (frames, height, width): smooth depth and motion, and masks with an edge."""
    frames, height, width = size
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32) / height
    depth = np.stack([2 + np.sin(3 * x + t / 9) * np.cos(2 * y + rng.random()) for t in range(frames)])
    motion = np.stack([np.full((frames - 1, height, width), value) * x for value in (3, -2, 0.1)])
    mask = np.broadcast_to(x > 0.3, (frames, height, width))
    masks = dict.fromkeys(("flow_valid", "dz_valid", "visible", "moving"), mask[1:])
    return {"depth": depth.astype(np.float32), "motion": motion.astype(np.float32), "depth_valid": mask, **masks}


def write(folder: Path, size: Size, count: int, kinds: int) -> None:
    """A dataset of `count` clips, of which `kinds` differ in more than their key and caption."""
    frames, height, width = size
    camera = [[float(width), 0, width / 2], [0, float(width), height / 2], [0, 0, 1]]
    made = []
    for seed in range(kinds):
        shown = scene(Effort(size=(height, width)), frames, seed)
        made.append({"mp4": encode(CASES[0], shown), "truth": blob.encode(truth(size, seed), blob.QUANTISATION)})
    with ShardWriter(folder, shard_bytes=1 << 26) as writer:
        for number in range(count):
            text = json.dumps({"intrinsics": [camera] * frames, "caption": f"waves {number % 16}"}).encode()
            writer.add(f"clip{number:06d}", {**made[number % kinds], "json": text}, frames, 24.0, height, width)


def index(folder: Path, rounds: int) -> list[float]:
    """Samples per second in each round over a dataset; the first round, which fills the page cache, is left out."""
    dataset, rates = ClipDataset(folder), []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        for number in range(len(dataset)):
            row = dataset.row(number)
            for name in ("mp4", "truth", "json"):
                dataset.member(row, name)
        rates.append(len(dataset) / (time.perf_counter() - begun))
    return rates[1:]


def decoding(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Frames per second of the stream and of PyAV alone, in turn, with a thread for each core."""
    dataset, threads = ClipDataset(folder, arrays=()), len(os.sched_getaffinity(0))
    frames = dataset.size()[0]
    files = [dataset.member(dataset.row(number), "mp4") for number in range(len(dataset))]

    def streamed() -> Iterable[object]:
        return stream(dataset, ([number] for number in range(len(dataset))), threads=threads, prefetch=2 * threads)

    def bare() -> Iterable[object]:
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(lambda data: alone(Request(data, frames)), files)

    rivals: dict[str, Callable[[], Iterable[object]]] = {"stream": streamed, "alone": bare}
    found: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(rounds + 1):
        for name, read in rivals.items():
            begun = time.perf_counter()
            for _ in read():
                pass
            if number:
                found[name].append(len(files) * frames / (time.perf_counter() - begun))
    return found


def wait(folder: Path, cache: Path, arrays: tuple[str, ...], steps: int) -> dict[str, float]:
    """Mean wait and its share of a step, in steps that pause for `STEP`; the first two, which start the threads, are
    left out."""
    source = source_of("tiny")
    found = find_cache(folder, cache, "required", source)
    clips = Clips(folder, arrays, source.encoders()[1], encoded=found, cache_bytes=0)
    waits, lengths, latents = [], [], 0
    for step in range(steps + 2):
        begun, before = time.perf_counter(), clips.waited.seconds
        batch: Batch = clips.batch(BATCH, Parallel.alone(), 0, "loading", step)
        assert batch.latents is not None
        latents = batch.latents[0].nbytes
        time.sleep(STEP)
        if step >= 2:
            waits.append(clips.waited.seconds - before)
            lengths.append(time.perf_counter() - begun)
    return {
        "wait_ms": 1e3 * statistics.mean(waits), "wait_ms_most": 1e3 * max(waits),
        "step_ms": 1e3 * statistics.mean(lengths), "share": sum(waits) / sum(lengths), "latents_mb": latents / 1e6,
    }  # fmt: skip


def measure(quick: bool) -> dict[str, Any]:
    """All three; quick: small and few, to show that it runs."""
    small, large = (5, 32, 32), (9, 96, 96) if quick else (49, 480, 720)
    cached = (9, 32, 32) if quick else (49, 80, 80)
    rounds, steps = (1, 4) if quick else (5, 200)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        write(place / "small", small, 40 if quick else 2000, 4)
        write(place / "large", large, 4 if quick else 16, 4)
        write(place / "cached", cached, 8 if quick else 256, 4)
        encode_dataset(place / "cached", place / "latents", source_of("tiny"), Parallel.alone())
        rates = decoding(place / "large", rounds)
        found = {
            "index": {"samples_per_s": index(place / "small", rounds), "clip": small},
            "decoding": {"frames_per_s": rates, "clip": large, "threads": len(os.sched_getaffinity(0))},
            "wait": {
                name: wait(place / "cached", place / "latents", arrays, steps)
                for name, arrays in (("latents", ()), ("latents and truth", TRUTH))
            },
            "clip": cached,
            "batch": BATCH,
        }
    return found | {"provenance": provenance()}


def table(found: dict[str, Any]) -> str:
    """The figures in words, a line each."""
    index_rate = statistics.median(found["index"]["samples_per_s"])
    rates = {name: statistics.median(some) for name, some in found["decoding"]["frames_per_s"].items()}
    ratio = statistics.median(
        a / b for a, b in zip(*(found["decoding"]["frames_per_s"][name] for name in ("stream", "alone")), strict=True)
    )
    lines = [
        f"index: {index_rate:.0f} samples/s of {'x'.join(map(str, found['index']['clip']))}, one thread",
        f"decoding: {rates['stream']:.0f} frames/s, PyAV alone {rates['alone']:.0f}: {ratio - 1:+.1%} "
        f"({'x'.join(map(str, found['decoding']['clip']))}, H.264, {found['decoding']['threads']} threads)",
    ]
    for name, row in found["wait"].items():
        lines.append(
            f"wait, {name}: {row['wait_ms']:.2f} ms (most {row['wait_ms_most']:.1f}) of a step of {row['step_ms']:.1f} "
            f"ms: {row['share']:.2%} ({found['batch']} clips of {'x'.join(map(str, found['clip']))}, latents of "
            f"{row['latents_mb']:.1f} MB each)"
        )
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m phys4d.benchmarks.loading")
    parser.add_argument("--quick", action="store_true", help="small and few, to show that it runs")
    parser.add_argument("--out", type=Path, help="a folder for loading.json")
    options = parser.parse_args()
    found = measure(options.quick)
    print(table(found))
    if options.out is not None:
        results.write(options.out / "loading.json", found)


if __name__ == "__main__":
    main()
