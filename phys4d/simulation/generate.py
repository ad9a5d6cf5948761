"""Writes a dataset of simulated clips: any number of processes, always the same bytes."""

import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, get_args

import mujoco
import numpy as np
from pydantic import Field, field_validator

from phys4d.engine.config import Config
from phys4d.engine.data import blob, video
from phys4d.engine.data.shards import ShardWriter
from phys4d.engine.errors import UserError
from phys4d.engine.progress import progress
from phys4d.simulation import camera_path
from phys4d.simulation.assembly import meshes
from phys4d.simulation.clip import QUANTISATION, measure, render
from phys4d.simulation.families import FAMILIES
from phys4d.simulation.looks import varied
from phys4d.simulation.mesh_sequence import Track
from phys4d.simulation.mujoco_world import STEPS_PER_SECOND, motion
from phys4d.simulation.raster import Rasteriser
from phys4d.simulation.record import description
from phys4d.simulation.scene import Scene
from phys4d.simulation.screening import badly_framed, fault

ATTEMPTS = 100
# llvmpipe counts the threads beside the caller's own.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "LP_NUM_THREADS": "0",
}

Family = Literal["fall", "collision", "ramp", "topple", "dominoes", "pendulum", "spin"]


class SimulateConfig(Config):
    """What to simulate. size: (height, width) in pixels. Families take turns. Without truth: video only.

    camera: moving ones go along a path that the caption states. looks: "varied" draws backdrops, lights and soft
    shadows; "plain" keeps a checkered floor, a bare wall and one white light with sharp shadows.
    """

    families: tuple[Family, ...] = Field(get_args(Family), min_length=1)
    clips: int = Field(100, ge=1)
    size: tuple[int, int] = (48, 48)
    frames: int = Field(17, ge=2)
    fps: int = Field(24, ge=1)
    seed: int = Field(0, ge=0)
    truth: bool = True
    camera: Literal["static", "moving"] = "static"
    looks: Literal["plain", "varied"] = "varied"
    pixel_format: Literal["yuv444p", "yuv420p"] = "yuv444p"

    @field_validator("fps")
    @classmethod
    def _whole_steps(cls, fps: int) -> int:
        if STEPS_PER_SECOND % fps:
            raise ValueError(f"expected a divisor of {STEPS_PER_SECOND}, the simulator's steps per second")
        return fps


def simulate(config: SimulateConfig, out: Path, *, workers: int) -> None:
    """Simulates `config.clips` clips into the dataset folder `out`, which must not exist or be empty.

    workers: processes. Raises UserError when the folder is taken or the machine has no headless OpenGL.
    """
    height, width = config.size
    with ShardWriter(out) as writer, progress("simulate", total=config.clips, unit="clips") as bar:
        for index, members in enumerate(_in_order(config, workers)):
            writer.add(key(index), members, config.frames, config.fps, height, width)
            bar.advance(1)


def key(index: int) -> str:
    """The name of a clip in its dataset."""
    return f"clip{index:06d}"


def make_clip(config: SimulateConfig, index: int) -> dict[str, bytes]:
    """The members of clip `index`, which depend on the config and the index alone."""
    scene, tracks, attempt = draw(config, index)
    height, width = config.size
    sequence = meshes(scene, tracks, detail=detail(height, width))
    camera = scene.view.camera(config.frames, height, width, config.fps)
    raster = _rasteriser(height, width)
    frames = render(sequence, camera, scene.light, raster)
    members = {"mp4": video.encode_mp4(frames, config.fps, pixel_format=config.pixel_format)}
    if config.truth:
        members["truth"] = blob.encode(measure(sequence, camera, raster).stored(), QUANTISATION)
    meta = description(scene, sequence, camera, config.fps)
    meta["provenance"] = {
        "source": "phys4d.simulation",
        "mujoco": mujoco.__version__,
        "seed": config.seed,
        "index": index,
        "attempt": attempt,
    }
    members["json"] = json.dumps(meta, separators=(",", ":")).encode()
    return members


def draw(config: SimulateConfig, index: int) -> tuple[Scene, dict[int, Track], int]:
    """The first scene of this index that shows what its caption says, its motion, its attempt's number."""
    family = config.families[index % len(config.families)]
    reasons: Counter[str] = Counter()
    for attempt in range(ATTEMPTS):
        scene = _scene(config, family, index, attempt)
        if badly_framed(scene):
            reasons["badly framed"] += 1
            continue
        tracks = motion(scene, config.frames, config.fps)
        reason = fault(scene, tracks, config.fps)
        if reason is None:
            return scene, tracks, attempt
        reasons[reason] += 1
    counts = ", ".join(f"{reason} ({count})" for reason, count in reasons.items())
    raise UserError(
        f"simulate: {config.frames} frames at {config.fps} fps: none of {ATTEMPTS} scenes of family {family} was "
        f"usable: {counts}: choose more frames or fewer frames per second"
    )


def _scene(config: SimulateConfig, family: str, index: int, attempt: int) -> Scene:
    """One drawn scene. Looks and camera have generators of their own, so that what happens is the same without."""
    scene = FAMILIES[family](generator(config.seed, index, attempt))
    if config.looks == "varied":
        scene = varied(scene, generator(config.seed, index, attempt, "looks"))
    if config.camera == "moving":
        path = camera_path.draw(generator(config.seed, index, attempt, "camera"))
        scene = replace(scene, view=replace(scene.view, path=path))
    return scene


def detail(height: int, width: int) -> int:
    """How fine round shapes are made, so that their corners stay well below a pixel."""
    return 2 if max(height, width) <= 96 else 3 if max(height, width) <= 384 else 4


def generator(*numbers: int | str) -> np.random.Generator:
    """A counter-based generator that depends on these numbers and names alone."""
    digest = hashlib.blake2b(repr(("simulate", *numbers)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


@cache
def _rasteriser(height: int, width: int) -> Rasteriser:
    return Rasteriser(height, width)


def _in_order(config: SimulateConfig, workers: int) -> Iterator[dict[str, Any]]:
    """The clips in order, made by spawned processes that are at most a few clips ahead."""
    waiting: deque[Future[dict[str, bytes]]] = deque()
    with _one_thread_each(), ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            for index in range(config.clips):
                waiting.append(pool.submit(make_clip, config, index))
                if len(waiting) >= 8 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside use one thread in BLAS and in OpenGL's software renderer."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
