"""Pseudo-labels for a dataset of videos. The teachers see the pixels of a clip and never its truth."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phys4d import __version__
from phys4d.engine.data import blob
from phys4d.engine.data.dataset import ClipDataset, Sample
from phys4d.engine.data.schema import REQUIRED, check_clip
from phys4d.engine.data.shards import INDEX, ShardWriter
from phys4d.engine.errors import UserError
from phys4d.engine.integrity import digest
from phys4d.engine.progress import progress
from phys4d.engine.signals import keeps
from phys4d.importers.videos.files import VIDEOS
from phys4d.kernels.geometry import sample_depth
from phys4d.teachers.interface import DepthTeacher, FlowTeacher
from phys4d.teachers.scenes import refuse_shared

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


def label_dataset(
    videos: Path, out: Path, depth_teacher: DepthTeacher, flow_teacher: FlowTeacher, *, workers: int = 1
) -> None:
    """Writes a dataset with the videos of another one and pseudo-labels in place of truth.

    Everything that can be refused is refused before `out` is made; `out` is made before a teacher is trained or loaded.
    Finished clips are kept when the process is stopped or killed, and the same call goes on after them if the teachers
    have the same weights then.

    Args:
        videos: dataset folder; its `.truth` members, where there are any, are not opened.
        out: new dataset folder: the same mp4 bytes, arrays depth, motion, depth_valid, flow_valid and dz_valid, and a
            json that names the teachers, their settings and their weights.
        depth_teacher: must give metric depth. Not yet prepared, as flow_teacher.
        flow_teacher: gives (du, dv); dz is the pseudo depth at t + 1, sampled where the flow ends, minus the pseudo
            depth at t.
        workers: threads; the bytes written do not depend on their number.

    Raises:
        UserError: a teacher without metric depth, a clip that a teacher is trained on, or a dataset that cannot be read
            or written.
    """
    if workers < 1:
        raise UserError(f"--workers {workers}: expected 1 or more")
    if depth_teacher.depth_kind != "metric":
        raise UserError(
            f"depth teacher {depth_teacher.title}: gives {depth_teacher.depth_kind}, motion in metres needs metric "
            "depth: use weights with a metric head, such as the Metric-Indoor or Metric-Outdoor ones of Depth Anything"
        )
    _refuse_plain_videos(videos)
    dataset = ClipDataset(videos, arrays=(), required=REQUIRED)
    for teacher in (depth_teacher, flow_teacher):
        refuse_shared(dataset, teacher.title, teacher.scenes)
    with ShardWriter(out, later=True) as writer:
        depth_teacher.prepare()
        flow_teacher.prepare()
        provenance = {"depth": depth_teacher.provenance(), "flow": flow_teacher.provenance()}
        writer.begin(json.dumps({"label": provenance, "videos": digest(videos / INDEX).sha256, "phys4d": __version__}))
        keeps(f"{out}: finished clips are kept: the same command goes on from there")
        _label(dataset, writer, depth_teacher, flow_teacher, provenance, workers)


def _refuse_plain_videos(folder: Path) -> None:
    if folder.is_dir() and not (folder / INDEX).exists() and any(p.suffix.lower() in VIDEOS for p in folder.iterdir()):
        raise UserError(
            f"{folder}: holds video files and no dataset: import them first, with "
            f"`phys4d data import {folder} --out DIR`"
        )


def _label(
    dataset: ClipDataset, writer: ShardWriter, depth_teacher: DepthTeacher, flow_teacher: FlowTeacher,
    provenance: dict[str, Any], workers: int,
) -> None:  # fmt: skip
    def members(index: int) -> dict[str, bytes]:
        sample = dataset[index]
        arrays = pseudo_labels(sample.video, depth_teacher, flow_teacher)
        meta = _meta(sample, provenance)
        try:
            check_clip(arrays, meta, sample.video.shape[:3])
        except ValueError as error:
            titles = f"{depth_teacher.title}, {flow_teacher.title}"
            raise UserError(f"{dataset.folder}: clip {sample.key}: its labels by {titles} are wrong: {error}") from None
        return {
            "mp4": dataset.member(dataset.row(index), "mp4"),  # a second encoding would change pixels
            "truth": blob.encode(arrays, blob.QUANTISATION),
            "json": json.dumps(meta, sort_keys=True).encode(),
        }

    with (
        ThreadPoolExecutor(workers) as pool,
        progress("label", total=len(dataset), unit="clips") as bar,
    ):
        # A few clips at a time: labels wait in memory until they are written in order.
        bar.advance(writer.kept)
        for first in range(writer.kept, len(dataset), 4 * workers):
            clips = range(first, min(first + 4 * workers, len(dataset)))
            for index, made in zip(clips, pool.map(members, clips), strict=True):
                row = dataset.row(index)
                writer.add(row["key"], made, row["frames"], row["fps"], row["height"], row["width"])
                bar.advance(1)


def pseudo_labels(video: np.ndarray, depth_teacher: DepthTeacher, flow_teacher: FlowTeacher) -> dict[str, np.ndarray]:
    """The arrays of one clip, from its pixels alone.

    video: uint8 [T, H, W, 3] RGB. depth_teacher, flow_teacher: prepared. Returns depth float32 [T, H, W] metres, motion
    float32 [3, T-1, H, W] (du px, dv px, dz m; dz 0 where not valid), depth_valid bool [T, H, W], flow_valid and
    dz_valid bool [T-1, H, W].
    """
    depth, depth_valid = depth_teacher.label(video)
    depth = np.where(depth_valid, depth, 0).astype(np.float32)
    flow, flow_valid = flow_teacher.label(video)
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


def _meta(sample: Sample, provenance: dict[str, Any]) -> dict[str, Any]:
    kept = {name: sample.meta[name] for name in _KEPT if name in sample.meta}
    origin = sample.meta.get("provenance", {})
    return {**kept, "depth_kind": "metric", "provenance": {**origin, "labels": provenance}}
