"""Writes a dataset of simulated clips: any number of processes, always the same bytes."""

import json
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread, Timer
from types import FrameType
from typing import Literal

import mujoco
from pydantic import Field, ValidationInfo, field_validator

from phys4d import __version__
from phys4d.engine.config import Config
from phys4d.engine.data import blob, video
from phys4d.engine.data.shards import ShardWriter, kept_rows
from phys4d.engine.output import Place
from phys4d.engine.progress import progress
from phys4d.engine.signals import blocked
from phys4d.simulation.categories import CATEGORIES, FAMILIES
from phys4d.simulation.clip import measure, render
from phys4d.simulation.drawing import CameraMotion, Drawing, Looks, first_usable
from phys4d.simulation.picture.raster import Rasteriser
from phys4d.simulation.record import description
from phys4d.simulation.summary import Summary
from phys4d.simulation.team import Handover, Team

STEPS_PER_SECOND = 1200  # frames fall on whole steps of the simulators

_SECONDS_TO_END = 5.0

# llvmpipe counts the threads beside the caller's own.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "LP_NUM_THREADS": "0",
}


class SimulateConfig(Config):
    """What to simulate. size: (height, width) in pixels. Without truth: video only.

    categories take turns, and in each its families; families: these alone take turns instead.

    camera: moving ones go along a path that the caption states. looks: "varied" draws backdrops, lights and soft
    shadows; "plain" keeps a checkered floor, a bare wall and one white light with sharp shadows.
    """

    categories: tuple[str, ...] = Field(("rigid",), min_length=1)
    families: tuple[str, ...] = ()
    clips: int = Field(100, ge=1)
    size: tuple[int, int] = (48, 48)
    frames: int = Field(17, ge=2)
    fps: int = Field(24, ge=1)
    seed: int = Field(0, ge=0)
    truth: bool = True
    camera: CameraMotion = "static"
    looks: Looks = "varied"
    pixel_format: Literal["yuv444p", "yuv420p"] = "yuv444p"

    @field_validator("fps")
    @classmethod
    def _whole_steps(cls, fps: int) -> int:
        if STEPS_PER_SECOND % fps:
            raise ValueError(f"expected a divisor of {STEPS_PER_SECOND}, the simulator's steps per second")
        return fps

    @field_validator("categories", "families")
    @classmethod
    def _known(cls, names: tuple[str, ...], field: ValidationInfo) -> tuple[str, ...]:
        known = CATEGORIES if field.field_name == "categories" else FAMILIES
        for name in names:
            if name not in known:
                raise ValueError(f"{name!r}: expected some of {', '.join(known)}")
        return names

    def family(self, index: int) -> str:
        """The family of a clip."""
        if self.families:
            return self.families[index % len(self.families)]
        turn, which = divmod(index, len(self.categories))
        families = list(CATEGORIES[self.categories[which]])
        return families[turn % len(families)]


def simulate(config: SimulateConfig, out: Path, *, workers: int, team: Team | None = None) -> Summary:
    """Simulates `config.clips` clips into the dataset folder `out`, which must not exist or be empty.

    workers: processes on this machine. team: the machines that share the work, by default those that torchrun or SLURM
    started; they must see the same file system. What is finished when a process is stopped or killed is kept, and the
    same call goes on from there. The bytes depend on the config alone. The summary is that of what this call wrote,
    and empty on all but the first machine.

    Raises UserError when the folder is taken, was begun with another config, or the machine has no headless OpenGL.
    """
    team, recipe = team or Team.started(), _recipe(config)
    handover, summary = Handover(out, recipe), Summary()
    if team.rank:
        if Place.of(out).taken():
            return summary  # complete, or the first one says that the place is taken
        kept = len(kept_rows(out, recipe))
        own = [index for index in range(kept, config.clips) if team.makes(index) and not handover.has(key(index))]
        for index, members in zip(own, _in_order(config, workers, own), strict=True):
            handover.give(key(index), members)
        return summary
    height, width = config.size
    with ShardWriter(out, recipe=recipe) as writer, progress("simulate", total=config.clips, unit="clips") as bar:
        bar.advance(writer.kept)
        rest = range(writer.kept, config.clips)
        own_clips = _in_order(config, workers, [index for index in rest if team.makes(index)])
        for index in rest:
            members = next(own_clips) if team.makes(index) else handover.take(key(index))
            writer.add(key(index), members, config.frames, config.fps, height, width)
            if not team.makes(index):
                handover.done(key(index))
            summary.count(json.loads(members["json"]))
            bar.advance(1)
        own_clips.close()
    handover.close()
    return summary


def _recipe(config: SimulateConfig) -> str:
    """All that the bytes depend on, in one line."""
    return json.dumps({"simulate": config.model_dump(mode="json"), **_versions()}, separators=(",", ":"))


def _versions() -> dict[str, str | None]:
    """What the bytes depend on beside the config; Newton is an extra."""
    try:
        newton = version("newton")
    except PackageNotFoundError:
        newton = None
    return {"phys4d": __version__, "mujoco": mujoco.__version__, "newton": newton}


def key(index: int) -> str:
    """The name of a clip in its dataset."""
    return f"clip{index:06d}"


def make_clip(config: SimulateConfig, index: int) -> dict[str, bytes]:
    """The members of clip `index`, which depend on the config and the index alone."""
    drawing = draw(config, index)
    scene, sequence = drawing.scene, drawing.meshes
    height, width = config.size
    camera = scene.view.camera(config.frames, height, width, config.fps)
    raster = rasteriser(height, width)
    frames = render(sequence, camera, scene.light, raster)
    members = {"mp4": video.encode_mp4(frames, config.fps, pixel_format=config.pixel_format)}
    if config.truth:
        members["truth"] = blob.encode(measure(sequence, camera, raster).stored(), blob.QUANTISATION)
    meta = description(scene, sequence, camera, config.fps)
    meta["provenance"] = {
        "source": "phys4d.simulation",
        **_versions(),
        "seed": config.seed,
        "index": index,
        "attempt": drawing.attempt,
        "dropped": drawing.dropped,
        "redrawn": drawing.redrawn,
    }
    members["json"] = json.dumps(meta, separators=(",", ":")).encode()
    return members


def draw(config: SimulateConfig, index: int) -> Drawing:
    """The scene of clip `index` and how it moves."""
    return first_usable(
        config.family(index), config.seed, index, frames=config.frames, fps=config.fps,
        detail=detail(*config.size), camera=config.camera, looks=config.looks,
    )  # fmt: skip


def detail(height: int, width: int) -> int:
    """How fine round shapes are made, so that their corners stay well below a pixel."""
    return 2 if max(height, width) <= 96 else 3 if max(height, width) <= 384 else 4


@cache
def rasteriser(height: int, width: int) -> Rasteriser:
    """This process's rasteriser for pictures of this size."""
    return Rasteriser(height, width)


def _in_order(config: SimulateConfig, workers: int, indices: Sequence[int]) -> Generator[dict[str, bytes]]:
    """These clips in order, made by spawned processes that are at most a few clips ahead."""
    waiting: deque[Future[dict[str, bytes]]] = deque()
    with blocked():
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent)
    with one_thread_each(), pool:
        try:
            for index in indices:
                with blocked():  # a process may be started
                    waiting.append(pool.submit(make_clip, config, index))
                if len(waiting) >= 8 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """A process of the pool ends when the one that started it is killed; otherwise it would wait for work for ever.

    A signal to all processes of a job is for the one that started it, which ends the pool in order: it started this
    one with signals blocked. A broken pool ends its processes by SIGTERM.
    """
    signal.signal(signal.SIGTERM, _end_later)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _end_later(number: int, frame: FrameType | None) -> None:
    """Ends this process where it still runs after some seconds."""
    timer = Timer(_SECONDS_TO_END, os._exit, (1,))
    timer.daemon = True
    timer.start()


@contextmanager
def one_thread_each() -> Iterator[None]:
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
