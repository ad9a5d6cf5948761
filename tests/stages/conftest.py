"""A dataset small enough to train on in a test: squares that slide over a wall, with exact truth."""

import json
from pathlib import Path

import numpy as np
import pytest

from phys4d.engine.data import blob, video
from phys4d.engine.data.shards import ShardWriter

FRAMES, SIZE = 5, 16
QUANTISE = {"depth": "inverse16", "motion": "linear16"}


def sliding_square(seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A square at 1 m that slides one pixel a frame before a wall at 2 m: video and its exact arrays."""
    rng = np.random.default_rng(seed)
    row, column = rng.integers(1, 8, 2)
    step = int(rng.choice([-1, 1])) if column > FRAMES else 1
    colour = rng.integers(128, 255, 3)
    frames = np.full((FRAMES, SIZE, SIZE, 3), 40, np.uint8)
    depth = np.full((FRAMES, SIZE, SIZE), 2.0, np.float32)
    instance = np.zeros((FRAMES, SIZE, SIZE), np.uint8)
    motion = np.zeros((3, FRAMES - 1, SIZE, SIZE), np.float32)
    for t in range(FRAMES):
        at = (t, slice(row, row + 5), slice(column + step * t, column + step * t + 5))
        frames[at], depth[at], instance[at] = colour, 1.0, 1
        if t < FRAMES - 1:
            motion[(0, *at)] = step
    moving = instance[:-1] > 0
    still = np.ones_like(moving)
    covered = ~moving & (instance[1:] > 0)
    return frames, {
        "depth": depth, "motion": motion, "depth_valid": np.ones_like(depth, bool), "flow_valid": still,
        "dz_valid": still, "visible": ~covered, "moving": moving, "instance": instance,
    }  # fmt: skip


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset folder of eight such clips."""
    folder = tmp_path_factory.mktemp("data") / "clips"
    intrinsics = [[[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]] * FRAMES
    with ShardWriter(folder) as writer:
        for seed in range(8):
            frames, arrays = sliding_square(seed)
            meta = {
                "caption": f"a square slides {seed}", "fps": 24, "frames": FRAMES, "height": SIZE, "width": SIZE,
                "intrinsics": intrinsics, "depth_kind": "metric",
            }  # fmt: skip
            members = {
                "mp4": video.encode_mp4(frames, 24),
                "truth": blob.encode(arrays, QUANTISE),
                "json": json.dumps(meta).encode(),
            }
            writer.add(f"clip{seed}", members, FRAMES, 24, SIZE, SIZE)
    return folder
