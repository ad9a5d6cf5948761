"""Labelled clips of 5 x 64 x 64, and a tiny model of four blocks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phys4d.engine.data.clip import blob, video
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.models import folder
from phys4d.models.config import ModelConfig
from phys4d.models.heads import HeadConfig
from phys4d.models.world import create_model

FRAMES, SIZE = 5, 64


def sliding_square(seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A square at 1 m that slides four pixels a frame before a wall that recedes from row to row: video and labels."""
    rng = np.random.default_rng(seed)
    row, column = rng.integers(0, 40), rng.integers(0, 20)
    frames = np.full((FRAMES, SIZE, SIZE, 3), 40, np.uint8)
    depth = np.broadcast_to(np.linspace(2, 3, SIZE)[:, None], (FRAMES, SIZE, SIZE)).astype(np.float32)
    motion = np.zeros((3, FRAMES - 1, SIZE, SIZE), np.float32)
    for t in range(FRAMES):
        at = (t, slice(row, row + 24), slice(column + 4 * t, column + 4 * t + 24))
        frames[at], depth[at] = 220, 1.0
        if t < FRAMES - 1:
            motion[(0, *at)] = 4
    valid = np.ones((FRAMES, SIZE, SIZE), bool)
    return frames, {
        "depth": depth, "motion": motion, "depth_valid": valid, "flow_valid": valid[1:], "dz_valid": valid[1:],
    }  # fmt: skip


@pytest.fixture(scope="session")
def write_clips() -> Callable[..., Path]:
    """Writes a dataset of `count` such clips; meta: other values in their json; arrays: without these labels."""

    def write(path: Path, count: int = 8, meta: dict[str, Any] | None = None, without: tuple[str, ...] = ()) -> Path:
        intrinsics = [[[80.0, 0, 32], [0, 80, 32], [0, 0, 1]]] * FRAMES
        with ShardWriter(path) as writer:
            for seed in range(count):
                frames, arrays = sliding_square(seed)
                kept = {name: array for name, array in arrays.items() if name not in without}
                about = {
                    "caption": f"a square slides {seed}", "fps": 24, "frames": FRAMES, "height": SIZE, "width": SIZE,
                    "intrinsics": intrinsics, "depth_kind": "metric", **(meta or {}),
                }  # fmt: skip
                steps = {name: step for name, step in blob.QUANTISATION.items() if name in kept}
                members = {
                    "mp4": video.encode_mp4(frames, 24), "truth": blob.encode(kept, steps),
                    "json": json.dumps(about).encode(),
                }  # fmt: skip
                writer.add(f"clip{seed}", members, FRAMES, 24, SIZE, SIZE)
        return path

    return write


@pytest.fixture(scope="session")
def labelled(write_clips: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of eight clips."""
    return write_clips(tmp_path_factory.mktemp("data") / "clips")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of `tiny` with four blocks, of which its heads read two."""
    run = tmp_path_factory.mktemp("tiny") / "run"
    config = ModelConfig(width=32, layers=4, taps=(0, 2), heads=HeadConfig(kind="dpt", width=8), sampling_steps=2)
    folder.save(create_model(config, FRAMES, SIZE, SIZE, seed=0), run / "model-backbone", stage="backbone", base=None)
    (run / "config.toml").write_text('stages = ["backbone"]\n')
    return run
