"""Pseudo-labels for a dataset of videos. The teachers see the pixels of a clip and never its truth."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from phys4d import __version__
from phys4d.bad_clips import OnBad, limit
from phys4d.engine.data.clip import blob
from phys4d.engine.data.clip.schema import METRIC, REQUIRED, check_clip
from phys4d.engine.data.dataset import ClipDataset, ClipFault, Sample
from phys4d.engine.data.files.columns import texts_of
from phys4d.engine.data.files.index import index_digest
from phys4d.engine.data.files.shards import INDEX, SCHEMA, WRITTEN, write_member
from phys4d.engine.data.stream import stream
from phys4d.engine.data.tools.rank_shards import RankShards, Row, Written, divided
from phys4d.engine.denormals import flush_denormals
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.engine.location import Location
from phys4d.engine.signals import keeps
from phys4d.importers.videos.files import VIDEOS
from phys4d.kernels.geometry import sample_depth
from phys4d.teachers.interface import DepthKind, DepthTeacher, FlowTeacher, Teacher, TrainedTeacher
from phys4d.teachers.scenes import refuse_shared

LEFT_OUT = "left-out.json"
"""In a labelled dataset some of whose clips are left out: the fault of each, by key."""

_AHEAD = 2  # clips for each thread that are read and labelled ahead of the one that is written
_LABEL_BYTES = 4  # of a pixel's labels, compressed; about
# Fields of a clip's json that its label keeps. The objects and their tracks are truth, so they are left out.
_KEPT = (
    "caption",
    "category",
    "family",
    "fps",
    "frames",
    "height",
    "width",
    "intrinsics",
    "camera_to_world",
)


@dataclass(frozen=True)
class Plan:
    """What labels are made of. videos: the dataset; depth, flow: the teachers; workers: threads."""

    videos: ClipDataset
    depth: DepthTeacher
    flow: FlowTeacher
    workers: int

    @property
    def teachers(self) -> dict[str, Teacher]:
        """Both by kind."""
        return {"depth": self.depth, "flow": self.flow}

    def provenance(self) -> dict[str, Any]:
        """The record of the prepared teachers beside each label."""
        return {"phys4d": __version__} | {kind: teacher.provenance() for kind, teacher in self.teachers.items()}

    def labels(self, clips: Sequence[int]) -> "Iterable[_Labelled | ClipFault]":
        """The labels of these clips, computed ahead; the fault of a clip that has none."""
        source = _Labelling(self, self.provenance())
        each, ahead = ([index] for index in clips), _AHEAD * self.workers
        for (labelled,) in stream(source, each, threads=self.workers, prefetch=ahead):
            yield labelled


def label_dataset(
    videos: Location,
    out: Path,
    depth_teacher: DepthTeacher,
    flow_teacher: FlowTeacher,
    *,
    workers: int = 1,
    parallel: Parallel | None = None,
    on_bad: OnBad = "stop",
) -> Written | None:
    """Writes a dataset with the videos of another one and pseudo-labels in place of truth.

    Everything that can be refused is refused before `out` is made; `out` is made before a teacher is trained or loaded.
    Finished shards are kept when a process is stopped or killed, and the same call goes on after them, on any number of
    ranks, if the teachers have the same weights then; a trained teacher is not trained again.

    Args:
        videos: dataset folder, or its URL; its `.truth` members, where there are any, are not opened.
        out: new dataset folder: the same mp4 bytes, arrays depth, motion, depth_valid, flow_valid and dz_valid, and a
            json that names the teachers, their settings and their weights. On a file system that all ranks share.
        depth_teacher: gives metric depth, or disparity up to scale and shift, which the json of each clip then states.
            Not yet prepared, as flow_teacher.
        flow_teacher: gives (du, dv); dz is the metric pseudo depth at t + 1, sampled where the flow ends, minus that at
            t. Of disparity no dz follows.
        workers: threads of each rank; the bytes written do not depend on their number.
        parallel: ranks, each of which labels clips of its own; None for this process alone.
        on_bad: "skip" leaves out clips that cannot be read or labelled, up to `bad_clips.MOST_BAD` of them.

    Returns what was written, on rank 0.

    Raises:
        UserError: a clip that a teacher is trained on, or a dataset that cannot be read or written.
    """
    flush_denormals()
    try:
        return _labelled(videos, out, depth_teacher, flow_teacher, workers, parallel or Parallel.alone(), on_bad)
    finally:
        flush_denormals(False)


def _labelled(
    videos: Location, out: Path, depth_teacher: DepthTeacher, flow_teacher: FlowTeacher, workers: int,
    parallel: Parallel, on_bad: OnBad,
) -> Written | None:  # fmt: skip
    plan = on_all_ranks(lambda: _plan(videos, depth_teacher, flow_teacher, workers))
    parallel.on_rank_zero(lambda: _refuse_shared(plan))
    with RankShards(out, parallel) as output:
        count, keys = len(plan.videos), plan.videos.keys()
        output.begin(_shards(plan.videos), limit(videos, count, on_bad), lambda: _prepared(plan, output, parallel))
        keeps(f"{out}: finished shards are kept: the same command goes on from there")
        output.write("label", plan.labels, _Writing(plan), lambda index: keys[index].as_py())
        return output.finish(WRITTEN, lambda written: {LEFT_OUT: _record(written)} if written.bad else {})


def _plan(videos: Location, depth: DepthTeacher, flow: FlowTeacher, workers: int) -> Plan:
    if workers < 1:
        raise UserError(f"--workers {workers}: expected 1 or more")
    if isinstance(videos, Path):
        _refuse_plain_videos(videos)
    return Plan(ClipDataset(videos, arrays=(), required=REQUIRED), depth, flow, workers)


def _refuse_plain_videos(folder: Path) -> None:
    if folder.is_dir() and not (folder / INDEX).exists() and any(p.suffix.lower() in VIDEOS for p in folder.iterdir()):
        raise UserError(
            f"{folder}: holds video files and no dataset: import them first, with "
            f"`phys4d data import {folder} --out DIR`"
        )


def _refuse_shared(plan: Plan) -> None:
    for teacher in plan.teachers.values():
        refuse_shared(plan.videos, teacher.title, teacher.scenes)


def _shards(videos: ClipDataset) -> list[range]:
    if not len(videos):
        return []
    row = videos.row(0)
    pixels = row["frames"] * row["height"] * row["width"]
    return divided(len(videos), _LABEL_BYTES * pixels + sum(member["size"] for member in row["members"].values()))


def _prepared(plan: Plan, output: RankShards, parallel: Parallel) -> tuple[str, Mapping[str, bytes]]:
    """Prepares both teachers; returns the recipe, and the weights of those that are trained, by file.

    Rank 0 trains them; the other ranks, and rank 0 of a call that goes on, take up the weights that it left.
    """
    kept: dict[str, bytes] = {}
    for kind, teacher in plan.teachers.items():
        if not isinstance(teacher, TrainedTeacher):
            teacher.prepare()
            continue
        file = output.notes / f"{kind}-teacher.safetensors"
        if not (file.is_file() and teacher.restore(file.read_bytes())):
            if parallel.rank != 0:
                raise UserError(f"{file}: rank {parallel.rank} cannot take it up: give all ranks the same settings")
            teacher.prepare()
        kept[file.name] = teacher.trained()
    recipe = {"label": plan.provenance(), "videos": index_digest(plan.videos.folder)}
    return json.dumps(recipe, sort_keys=True), kept


@dataclass(frozen=True)
class _Labelled:
    """The members of a labelled clip, by name."""

    members: dict[str, bytes]


class _Labelling:
    """Labelled clips by index; a clip that cannot be read or labelled is its fault."""

    def __init__(self, plan: Plan, provenance: Mapping[str, Any]) -> None:
        self._plan, self._provenance = plan, provenance

    def __getitem__(self, index: int) -> _Labelled | ClipFault:
        try:
            return self._labelled(index)
        except ClipFault as fault:
            return fault

    def _labelled(self, index: int) -> _Labelled:
        plan, sample = self._plan, self._plan.videos[index]
        arrays = pseudo_labels(sample.video, plan.depth, plan.flow)
        meta = _meta(sample, plan.depth.depth_kind, self._provenance)
        row = plan.videos.row(index)
        try:
            check_clip(arrays, meta, sample.video.shape[:3])
        except ValueError as error:
            titles = " and ".join(teacher.title for teacher in plan.teachers.values())
            what = f"{row['shard']}: clip {sample.key}: its labels by {titles} are wrong: {error}"
            raise ClipFault(plan.videos.folder, sample.key, what, "look at this clip, or use another teacher") from None
        return _Labelled(
            {
                "mp4": plan.videos.member(row, "mp4"),  # a second encoding would change pixels
                "truth": blob.encode(arrays, blob.quantisation(arrays, plan.depth.depth_kind)),
                "json": json.dumps(meta, sort_keys=True).encode(),
            }
        )


class _Writing:
    """Appends a labelled clip to a shard."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __call__(self, shard: BinaryIO, index: int, labelled: _Labelled) -> Row:
        row = self._plan.videos.row(index)
        members = [
            write_member(shard, f"{row['key']}.{name}", name, data) for name, data in labelled.members.items()
        ]
        return {name: row[name] for name in SCHEMA.names} | {"members": members} | texts_of(labelled.members)


def _record(written: Written) -> bytes:
    return f"{json.dumps(written.bad, indent=1)}\n".encode()


def pseudo_labels(video: np.ndarray, depth_teacher: DepthTeacher, flow_teacher: FlowTeacher) -> dict[str, np.ndarray]:
    """The arrays of one clip, from its pixels alone.

    video: uint8 [T, H, W, 3] RGB. depth_teacher, flow_teacher: prepared. Returns depth float32 [T, H, W], metres or
    disparity by the teacher's `depth_kind`, motion float32 [3, T-1, H, W] (du px, dv px, dz m; dz 0 where not valid),
    depth_valid bool [T, H, W], flow_valid and dz_valid bool [T-1, H, W], of which dz_valid is empty for disparity.
    """
    depth, depth_valid = depth_teacher.label(video)
    depth = np.where(depth_valid, depth, 0).astype(np.float32)
    flow, flow_valid = flow_teacher.label(video)
    dz, dz_valid = np.zeros_like(flow[0]), np.zeros_like(flow_valid)
    if depth_teacher.depth_kind == METRIC:
        moved, inside = sample_depth(torch.from_numpy(depth[1:]), torch.from_numpy(flow))
        dz_valid = inside.numpy() & flow_valid & depth_valid[:-1]
        dz = np.where(dz_valid, moved.numpy() - depth[:-1], 0)
    return {
        "depth": depth,
        "motion": np.concatenate((flow, dz[None])).astype(np.float32),
        "depth_valid": depth_valid,
        "flow_valid": flow_valid,
        "dz_valid": dz_valid,
    }


def _meta(sample: Sample, depth_kind: DepthKind, provenance: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: sample.meta[name] for name in _KEPT if name in sample.meta}
    origin = sample.meta.get("provenance", {})
    return {**kept, "depth_kind": depth_kind, "provenance": {**origin, "labels": dict(provenance)}}
