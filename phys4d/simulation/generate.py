"""Writes a dataset of simulated clips; the bytes do not depend on the number of processes or machines."""

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

import mujoco
from pydantic import Field, ValidationInfo, field_validator

from phys4d import __version__
from phys4d.engine.config import Config
from phys4d.engine.data.clip import blob, schema, video
from phys4d.engine.data.files.shards import ShardWriter, kept_rows
from phys4d.engine.output import OutputFolder
from phys4d.engine.progress import progress
from phys4d.engine.signals import blocked
from phys4d.simulation.categories import CATEGORIES, FAMILIES
from phys4d.simulation.clip import measure, render
from phys4d.simulation.distributed import ClipExchange, ProcessRank
from phys4d.simulation.metadata import clip_metadata
from phys4d.simulation.rejection_sampling import CameraMotion, Looks, SampledScene, sample_usable_scene
from phys4d.simulation.rendering.raster import Rasteriser
from phys4d.simulation.summary import Summary

STEPS_PER_SECOND = 1200  # of the simulators; every frame is a whole number of steps

_SECONDS_TO_END = 5.0

# llvmpipe counts the threads in addition to the caller's.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "LP_NUM_THREADS": "0",
}


class SimulateConfig(Config):
    """Settings of a simulated dataset; all are global, the same on every machine.

    categories: categories of physics; clip i takes the next category, and within it the next family, in turn.
    families: if not empty, only these families, in turn; `categories` is then ignored.
    clips: number of clips.
    size: (height, width), pixels.
    frames: frames of a clip.
    fps: frames per second; must divide STEPS_PER_SECOND.
    seed: seed of all random choices.
    truth: store depth, motion, masks and instances; False stores the video only.
    camera: "static", or "moving" along a path that the caption states.
    looks: "varied" samples floors, walls, lights and soft shadows; "plain" is a checkered floor, a bare wall and one
        white light with sharp shadows.
    pixel_format: chroma format of the mp4, see `engine.data.clip.video.encode_mp4`.
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
    pixel_format: video.PixelFormat = "yuv444p"

    @field_validator("fps")
    @classmethod
    def _whole_steps(cls, fps: int) -> int:
        if STEPS_PER_SECOND % fps:
            raise ValueError(f"expected a divisor of {STEPS_PER_SECOND}, the simulator's steps per second")
        return fps

    @field_validator("pixel_format")
    @classmethod
    def _even_sides(cls, name: video.PixelFormat, field: ValidationInfo) -> video.PixelFormat:
        return video.checked_pixel_format(name, field.data["size"]) if "size" in field.data else name

    @field_validator("categories", "families")
    @classmethod
    def _known(cls, names: tuple[str, ...], field: ValidationInfo) -> tuple[str, ...]:
        known = CATEGORIES if field.field_name == "categories" else FAMILIES
        for name in names:
            if name not in known:
                raise ValueError(f"{name!r}: expected some of {', '.join(known)}")
        return names

    def family(self, index: int) -> str:
        """The family of clip number `index`."""
        if self.families:
            return self.families[index % len(self.families)]
        turn, which = divmod(index, len(self.categories))
        families = list(CATEGORIES[self.categories[which]])
        return families[turn % len(families)]


def simulate(config: SimulateConfig, out: Path, *, workers: int, process_rank: ProcessRank | None = None) -> Summary:
    """Simulates `config.clips` clips into the dataset folder `out`, which must not exist or be empty.

    The bytes depend on the config only. Finished clips are kept when a process is stopped or killed, and the same call
    resumes after them.

    out: dataset folder; with several ranks, on a file system that all of them share.
    workers: worker processes of this rank.
    process_rank: this rank among those that share the work; default: as started by torchrun or srun.

    Returns counts of the clips that this call wrote; empty on all ranks but 0. Raises UserError if the folder is not
    empty, was begun with another config, or the machine has no headless OpenGL.
    """
    process_rank, recipe = process_rank or ProcessRank.from_environment(), _recipe(config)
    exchange, summary = ClipExchange(out, recipe), Summary()
    if process_rank.rank:
        if OutputFolder.of(out).is_occupied():
            return summary  # complete, or rank 0 raises that the folder is not empty
        kept = len(kept_rows(out, recipe))
        own = [
            index
            for index in range(kept, config.clips)
            if process_rank.owns(index) and not exchange.contains(key(index))
        ]
        with exchange.alive(process_rank.rank):
            for index, members in zip(own, _in_order(config, workers, own), strict=True):
                exchange.put(key(index), members)
        return summary
    height, width = config.size
    with ShardWriter(out, recipe=recipe) as writer, progress("simulate", total=config.clips, unit="clips") as bar:
        bar.advance(writer.kept)
        rest = range(writer.kept, config.clips)
        own_clips = _in_order(config, workers, [index for index in rest if process_rank.owns(index)])
        for index in rest:
            owner = process_rank.owner(index)
            members = next(own_clips) if process_rank.owns(index) else exchange.wait_for(key(index), owner)
            writer.add(key(index), members, config.frames, config.fps, height, width)
            if not process_rank.owns(index):
                exchange.remove(key(index))
            summary.count(json.loads(members["json"]))
            bar.advance(1)
        own_clips.close()
    exchange.close()
    return summary


def _recipe(config: SimulateConfig) -> str:
    """One line that contains everything the bytes depend on."""
    return json.dumps({"simulate": config.model_dump(mode="json"), **_versions()}, separators=(",", ":"))


def _versions() -> dict[str, str | None]:
    """Versions of the packages that the bytes depend on; None if Newton, an extra, is not installed."""
    try:
        newton = version("newton")
    except PackageNotFoundError:
        newton = None
    return {"phys4d": __version__, "mujoco": mujoco.__version__, "newton": newton}


def key(index: int) -> str:
    """The key of clip number `index` in the dataset."""
    return f"clip{index:06d}"


def make_clip(config: SimulateConfig, index: int) -> dict[str, bytes]:
    """The members (file extension -> bytes) of clip `index`, a function of the config and the index only."""
    drawing = sample_scene(config, index)
    scene, sequence = drawing.scene, drawing.meshes
    height, width = config.size
    camera = scene.view.camera(config.frames, height, width, config.fps)
    raster = rasteriser(height, width)
    frames = render(sequence, camera, scene.light, raster)
    members = {"mp4": video.encode_mp4(frames, config.fps, pixel_format=config.pixel_format)}
    arrays = measure(sequence, camera).stored() if config.truth else {}
    if arrays:
        members["truth"] = blob.encode(arrays, blob.QUANTISATION)
    meta = clip_metadata(scene, sequence, camera, config.fps)
    meta["provenance"] = {
        "source": "phys4d.simulation",
        **_versions(),
        "seed": config.seed,
        "index": index,
        "attempt": drawing.attempt,
        "dropped": drawing.dropped,
        "redrawn": drawing.redrawn,
    }
    schema.check_clip(arrays, meta, (config.frames, height, width))
    members["json"] = json.dumps(meta, separators=(",", ":")).encode()
    return members


def sample_scene(config: SimulateConfig, index: int) -> SampledScene:
    """The accepted scene of clip `index` and its motion."""
    return sample_usable_scene(
        config.family(index), config.seed, index, frames=config.frames, fps=config.fps,
        detail=detail(*config.size), camera=config.camera, looks=config.looks,
    )  # fmt: skip


def detail(height: int, width: int) -> int:
    """Subdivision level of round shapes, such that their polygon corners stay well below one pixel."""
    return 2 if max(height, width) <= 96 else 3 if max(height, width) <= 384 else 4


@cache
def rasteriser(height: int, width: int) -> Rasteriser:
    """The rasteriser of this process for images of this size; created once."""
    return Rasteriser(height, width)


def _in_order(config: SimulateConfig, workers: int, indices: Sequence[int]) -> Generator[dict[str, bytes]]:
    """Yields these clips in order; spawned worker processes compute a few clips ahead."""
    waiting: deque[Future[dict[str, bytes]]] = deque()
    with blocked():
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent)
    with one_thread_each(), pool:
        try:
            for index in indices:
                with blocked():  # submit may start a worker process
                    waiting.append(pool.submit(make_clip, config, index))
                if len(waiting) >= 8 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Initialises a worker: it exits when its parent process dies, instead of waiting for work forever.

    A signal to all processes of a job is handled by the parent, which shuts the pool down in order; the parent starts
    workers with signals blocked. SIGTERM is unblocked, since a broken pool terminates its workers by it.
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
    """Exits this process if it still runs after _SECONDS_TO_END."""
    timer = Timer(_SECONDS_TO_END, os._exit, (1,))
    timer.daemon = True
    timer.start()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Context in which processes are started with one thread for BLAS and for OpenGL's software renderer."""
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
