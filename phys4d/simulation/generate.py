"""Writes a dataset of simulated clips; the clips' bytes do not depend on the number of processes or machines."""

import json
import sys
from collections import deque
from collections.abc import Collection, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import mujoco
import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from phys4d import __version__
from phys4d.engine.config import Config
from phys4d.engine.data.clip import blob, schema, video
from phys4d.engine.data.files.journal import kept_rows, ranks_that_wrote
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.errors import UserError
from phys4d.engine.output import OutputFolder
from phys4d.engine.progress import progress
from phys4d.engine.signals import blocked
from phys4d.simulation.assets import Library, read_library
from phys4d.simulation.categories import CATEGORIES, FAMILIES
from phys4d.simulation.clip import measure, render
from phys4d.simulation.distributed import ProcessRank, RankFiles
from phys4d.simulation.metadata import clip_metadata
from phys4d.simulation.rejection_sampling import (
    CameraMotion,
    Clutter,
    Lens,
    Looks,
    NoUsableScene,
    SampledScene,
    sample_usable_scene,
)
from phys4d.simulation.rendering.raster import Rasteriser
from phys4d.simulation.summary import Summary
from phys4d.simulation.truth.extras import Extra, extra_truth
from phys4d.simulation.worker_processes import end_with_parent, one_thread_each

STEPS_PER_SECOND = 1200  # of the simulators; every frame is a whole number of steps

PREFIX = "clip"  # of a clip's key
REFUSED = "refused"  # in place of a clip's members: why there is no clip


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
    extras: further truth that is stored, names of `truth.extras`; what is left out has the same bytes as without.
    camera: "static", or "moving" along a path that the caption states.
    looks: "varied" samples floors, walls, lights and soft shadows; "plain" is a checkered floor, a bare wall and one
        white light with sharp shadows.
    lens: "varied" samples fields of view from 30 to 70 degrees across the smaller side; "fixed" is one of 45.
    clutter: "varied": up to three pieces of furniture and the like stand fixed behind the event, and the caption names
        them; "half": so in half of the clips, or "none".
    assets: folder with meshes of the user, see `assets`: half of the furniture, and what falls in the family `fall`.
    pixel_format: chroma format of the mp4, see `engine.data.clip.video.encode_mp4`.
    on_refused: "stop" at a clip of which no sample is usable, or "skip" it and count it; the others keep their bytes.
    """

    categories: tuple[str, ...] = Field(("rigid",), min_length=1)
    families: tuple[str, ...] = ()
    clips: int = Field(100, ge=1)
    size: tuple[int, int] = (48, 48)
    frames: int = Field(17, ge=2)
    fps: int = Field(24, ge=1)
    seed: int = Field(0, ge=0)
    truth: bool = True
    extras: tuple[Extra, ...] = ()
    camera: CameraMotion = "static"
    looks: Looks = "varied"
    lens: Lens = "varied"
    clutter: Clutter = "half"
    assets: Path | None = None
    pixel_format: video.PixelFormat = "yuv444p"
    on_refused: Literal["stop", "skip"] = "stop"

    @field_validator("fps")
    @classmethod
    def _whole_steps(cls, fps: int) -> int:
        if STEPS_PER_SECOND % fps:
            raise ValueError(f"expected a divisor of {STEPS_PER_SECOND}, the simulator's steps per second")
        return fps

    @field_validator("extras")
    @classmethod
    def _of_truth(cls, names: tuple[Extra, ...], field: ValidationInfo) -> tuple[Extra, ...]:
        if names and not field.data.get("truth", True):
            raise ValueError("expected none, since the clips are to have no truth")
        return names

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

    def library(self) -> Library | None:
        """The meshes of the user, None without; raises UserError if they are unusable."""
        return None if self.assets is None else read_library(self.assets, closed=self.clutter == "none")

    def family(self, index: int) -> str:
        """The family of clip number `index`."""
        if self.families:
            return self.families[index % len(self.families)]
        turn, which = divmod(index, len(self.categories))
        families = list(CATEGORIES[self.categories[which]])
        return families[turn % len(families)]


def simulate(config: SimulateConfig, out: Path, *, workers: int, process_rank: ProcessRank | None = None) -> Summary:
    """Simulates `config.clips` clips into the dataset folder `out`, which must not exist or be empty.

    Each rank writes its clips to shards of its own, and rank 0 the index of all, in the order of the clips. The bytes
    of clips and that order depend on the config only, with one rank those of the files too; with several, the number of
    ranks decides which shard holds a clip. Finished clips are kept when a process is stopped or killed, and the same
    call, by any number of ranks, resumes after them.

    out: dataset folder; with several ranks, on a file system that all of them share.
    workers: worker processes of this rank.
    process_rank: this rank among those that share the work; default: as started by torchrun or srun.

    Returns counts of the clips that this call wrote, on rank 0 those of all ranks. Raises UserError if the folder is
    not empty, was begun with another config, the machine has no headless OpenGL, or rank 0 has waited in vain for
    another rank.
    """
    here, recipe, summary = process_rank or ProcessRank.from_environment(), _recipe(config), Summary()
    if here.rank and OutputFolder.of(out).is_occupied():
        return summary  # complete, or rank 0 raises that the folder is not empty
    height, width = config.size
    files, several = RankFiles(out, recipe, here), here.world_size > 1
    refused: list[str] = []
    title = f"simulate, rank {here.rank} of {here.world_size}" if several else "simulate"
    with ShardWriter(out, recipe=recipe, rank=here.rank, ranks=here.world_size) as writer, files.alive():
        there = {row["key"] for row in (*kept_rows(out, recipe, here.rank), *files.rows())}
        share = range(here.rank, config.clips, here.world_size)
        own = [index for index in share if key(index) not in there]
        with progress(title, total=len(share), unit="clips") as bar:
            bar.advance(len(share) - len(own))
            for index, members in zip(own, _in_order(config, workers, own), strict=True):
                if REFUSED in members:
                    refused.append(key(index))
                    summary.refuse(config.family(index), members[REFUSED].decode())
                else:
                    writer.add(key(index), members, config.frames, config.fps, height, width)
                    summary.count(json.loads(members["json"]))
                bar.advance(1)
        if here.rank == 0:
            _take_others(config, files, writer, there, summary)
            if not writer.rows:
                raise UserError(f"simulate: no clip was usable: {'; '.join(summary.lines())}")
    if here.rank:
        files.end(summary.counts(), refused)
        ended = "all its clips are written; rank 0 makes the index when those of all are there"
        print(f"{title}: {ended}", file=sys.stderr)
    return summary


def _take_others(
    config: SimulateConfig, files: RankFiles, writer: ShardWriter, there: Collection[str], summary: Summary
) -> None:
    """Waits for the other ranks, and gives rank 0's writer the rows of their clips and `summary` their counts; there:
    keys of the clips of earlier sessions.
    """
    for rank in ranks_that_wrote(files.out):
        if rank >= files.here.world_size:  # of an earlier session with more ranks
            with ShardWriter(files.out, recipe=files.recipe, rank=rank, ranks=rank + 1):
                pass  # ends its last shard
    others = range(1, files.here.world_size)
    awaited = {
        rank: [name for index in range(rank, config.clips, files.here.world_size) if (name := key(index)) not in there]
        for rank in others
    }
    for counts in files.wait(awaited):
        summary.add(counts)
    writer.merge(files.rows())


def _recipe(config: SimulateConfig) -> str:
    """One line that contains everything the bytes depend on."""
    # A run that stopped at a refused clip can go on with on_refused="skip".
    without = {"on_refused", "assets", *(() if config.extras else ("extras",))}
    settings = config.model_dump(mode="json", exclude=without)
    if (library := config.library()) is not None:
        settings["assets"] = library.digest
    return json.dumps({"simulate": settings, **_versions()}, separators=(",", ":"))


def _versions() -> dict[str, str | None]:
    """Versions of the packages that the bytes depend on; None if Newton, an extra, is not installed."""
    try:
        newton = version("newton")
    except PackageNotFoundError:
        newton = None
    return {"phys4d": __version__, "mujoco": mujoco.__version__, "newton": newton}


def key(index: int) -> str:
    """The key of clip number `index` in the dataset."""
    return f"{PREFIX}{index:06d}"


def _clip_or_refusal(config: SimulateConfig, index: int) -> dict[str, bytes]:
    """As `make_clip`, but with on_refused="skip" the only member REFUSED, the reason, if no sample is usable."""
    try:
        return make_clip(config, index)
    except NoUsableScene as reason:
        if config.on_refused == "stop":
            raise
        return {REFUSED: str(reason).encode()}


def make_clip(config: SimulateConfig, index: int) -> dict[str, bytes]:
    """The members (file extension -> bytes) of clip `index`, a function of the config and the index only."""
    drawing = sample_scene(config, index)
    scene, sequence = drawing.scene, drawing.meshes
    height, width = config.size
    camera = scene.view.camera(config.frames, height, width, config.fps)
    raster = rasteriser(height, width)
    truth = measure(sequence, camera, np.float32) if config.truth else None
    frames = render(sequence, camera, scene.light, raster, truth)
    members = {"mp4": video.encode_mp4(frames, config.fps, pixel_format=config.pixel_format)}
    arrays = {} if truth is None else truth.stored()
    if truth is not None:
        arrays |= extra_truth(config.extras, scene, sequence, camera, truth, config.fps)
        members["truth"] = blob.encode(arrays, blob.quantisation(arrays, schema.METRIC))
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
    if (library := config.library()) is not None:
        meta["provenance"]["assets"] = library.names()
    schema.check_clip(arrays, meta, (config.frames, height, width))
    members["json"] = json.dumps(meta, separators=(",", ":")).encode()
    return members


def sample_scene(config: SimulateConfig, index: int) -> SampledScene:
    """The accepted scene of clip `index` and its motion."""
    return sample_usable_scene(
        config.family(index), config.seed, index, frames=config.frames, fps=config.fps,
        detail=detail(*config.size), camera=config.camera, looks=config.looks, lens=config.lens,
        clutter=config.clutter, library=config.library(),
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
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent)
    with one_thread_each(), pool:
        try:
            for index in indices:
                with blocked():  # submit may start a worker process
                    waiting.append(pool.submit(_clip_or_refusal, config, index))
                if len(waiting) >= 8 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
