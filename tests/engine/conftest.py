"""Small clips, datasets and run folders for the engine's tests."""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from phys4d.engine.data.clip import blob
from phys4d.engine.data.clip.video import encode_mp4
from phys4d.engine.data.decoders import choice
from phys4d.engine.data.decoders.interface import VideoDecoder
from phys4d.engine.data.files.shards import ShardWriter
from tests.engine.data import video_clips

torch.set_num_threads(1)
FRAMES, HEIGHT, WIDTH, FPS = 5, 16, 24, 12.0
INTRINSICS = [[[30, 0, 12], [0, 30, 8], [0, 0, 1]]] * FRAMES


def moving_pattern(clip: int, frames: int = FRAMES) -> np.ndarray:
    """Smooth RGB frames uint8 [frames, 16, 24, 3] that differ between clips and from frame to frame."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    shown = [
        np.stack([x * 6 + 20 * t, y * 9 + 10 * clip, (x + y) * 3 + 15 * t], axis=-1) for t in range(frames)
    ]
    return np.clip(np.stack(shown), 0, 255).astype(np.uint8)


def arrays_of(clip: int) -> dict[str, np.ndarray]:
    """Depth and motion with a mask, in the format of a simulator."""
    draw = np.random.default_rng(clip)
    depth = draw.uniform(1, 9, (FRAMES, HEIGHT, WIDTH)).astype(np.float32)
    depth[:, :2] = 0
    motion = draw.normal(size=(3, FRAMES - 1, HEIGHT, WIDTH)).astype(np.float32)
    return {"depth": depth, "motion": motion, "depth_valid": depth > 0}


def members_of(clip: int) -> dict[str, bytes]:
    """The three members of a clip."""
    return {
        "mp4": encode_mp4(moving_pattern(clip), FPS),
        "truth": blob.encode(arrays_of(clip), blob.QUANTISATION),
        "json": json.dumps({"caption": f"clip number {clip}", "frames": FRAMES, "intrinsics": INTRINSICS}).encode(),
    }


@pytest.fixture(scope="session")
def clip_members() -> list[dict[str, bytes]]:
    return [members_of(clip) for clip in range(6)]


@pytest.fixture
def write_dataset(
    tmp_path: Path, clip_members: list[dict[str, bytes]]
) -> Callable[[dict[int, dict[str, bytes]]], Path]:
    """Writes a dataset of six clips, two in a shard; the argument replaces members of some of them."""

    def write(replaced: dict[int, dict[str, bytes]]) -> Path:
        size = sum(map(len, clip_members[0].values()))
        with ShardWriter(tmp_path / "clips", shard_bytes=2 * size + 8 * 1024) as writer:
            for clip, members in enumerate(clip_members):
                writer.add(f"clip-{clip}", members | replaced.get(clip, {}), FRAMES, FPS, HEIGHT, WIDTH)
        return tmp_path / "clips"

    return write


@pytest.fixture
def in_child() -> Callable[[Callable[[], None]], int]:
    """Runs something in a forked process: 0, or 1 after an exception, or minus the signal that killed it."""

    def run(action: Callable[[], None]) -> int:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                action()
                status = 0
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    return run


@pytest.fixture(scope="session")
def toy_program() -> Path:
    """Path of the small training program that some tests start."""
    return Path(__file__).with_name("toy_training.py")


@pytest.fixture(scope="session")
def toy(toy_program: Path) -> ModuleType:
    """The same, as a module."""
    spec = importlib.util.spec_from_file_location("toy_training", toy_program)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def clips() -> dict[str, bytes]:
    """Small videos by what is special about them."""
    return video_clips.clips()


@pytest.fixture(params=list(choice.DECODERS))
def decoder(request: pytest.FixtureRequest) -> VideoDecoder:
    """Every decoder in turn, on the CPU; skipped where its library is absent."""
    if (reason := choice.absence(request.param)) is not None:
        pytest.skip(reason)
    return choice.choose(request.param)
