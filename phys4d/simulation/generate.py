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
from typing import Any

import mujoco
import numpy as np

from phys4d import __version__
from phys4d.engine.data.clip import blob, schema, video
from phys4d.engine.data.files.journal import kept_rows, ranks_that_wrote
from phys4d.engine.data.files.shards import ShardWriter
from phys4d.engine.errors import UserError
from phys4d.engine.output import OutputFolder
from phys4d.engine.progress import progress
from phys4d.engine.signals import blocked
from phys4d.simulation.clip import Truth, behind_smoke, measure, render
from phys4d.simulation.cycles.description import describe
from phys4d.simulation.cycles.process import blender_version, pictures
from phys4d.simulation.distributed import ProcessRank, RankFiles
from phys4d.simulation.metadata import clip_metadata
from phys4d.simulation.rejection_sampling import NoUsableScene, SampledScene, keyed_rng, sample_usable_scene
from phys4d.simulation.rendering.raster import Rasteriser
from phys4d.simulation.scenery.camera import Camera
from phys4d.simulation.settings import SimulateConfig
from phys4d.simulation.summary import Summary
from phys4d.simulation.truth.extras import extra_truth
from phys4d.simulation.worker_processes import end_with_parent, one_thread_each

PREFIX = "clip"  # of a clip's key
REFUSED = "refused"  # in place of a clip's members: why there is no clip


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
    without = {"on_refused", "assets", "cycles_python", *(() if config.extras else ("extras",))}
    without |= {"renderer", "samples"} if config.renderer == "raster" else set()
    settings = config.model_dump(mode="json", exclude=without)
    if (library := config.library()) is not None:
        settings["assets"] = library.digest
    return json.dumps({"simulate": settings, **_versions(config)}, separators=(",", ":"))


def _versions(config: SimulateConfig) -> dict[str, str | None]:
    """Versions of the packages that the bytes depend on; None if Newton, an extra, is not installed."""
    try:
        newton = version("newton")
    except PackageNotFoundError:
        newton = None
    bpy = {} if config.renderer == "raster" else {"bpy": blender_version(config.cycles_python)}
    return {"phys4d": __version__, "mujoco": mujoco.__version__, "newton": newton, **bpy}


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
    truth = measure(sequence, camera, np.float32) if config.truth else None
    frames, about = _video(config, index, drawing, camera, truth)
    members = {"mp4": video.encode_mp4(frames, config.fps, pixel_format=config.pixel_format)}
    arrays = {} if truth is None else truth.stored()
    if truth is not None:
        arrays |= extra_truth(config.extras, scene, sequence, camera, truth, config.fps)
        members["truth"] = blob.encode(arrays, blob.quantisation(arrays, schema.METRIC))
    meta = clip_metadata(scene, sequence, camera, config.fps)
    meta["provenance"] = {
        "source": "phys4d.simulation",
        **_versions(config),
        **about,
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


def _video(
    config: SimulateConfig, index: int, drawing: SampledScene, camera: Camera, truth: Truth | None
) -> tuple[np.ndarray, dict[str, Any]]:
    """The video, uint8 [T, H, W, 3], and what the clip's json states of a renderer that is not the default."""
    if config.renderer == "raster":
        return render(drawing.meshes, camera, drawing.scene.light, rasteriser(*config.size), truth), {}
    described = describe(drawing.scene, drawing.meshes, camera, keyed_rng(config.seed, index, "cycles"))
    seed = int(keyed_rng(config.seed, index, "noise").integers(2**31))
    frames = pictures(described, samples=config.samples, seed=seed, python=config.cycles_python)
    about = {"renderer": "cycles", "samples": config.samples, "refracting": described.refracting}
    return behind_smoke(drawing.meshes, camera, frames, truth), about


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
