"""The 4D suite for videos of any model, with teachers that read depth and flow off them, as they label videos."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phys4d.clips import TRUTH
from phys4d.engine.data.clip import schema
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.errors import UserError
from phys4d.engine.progress import progress
from phys4d.evaluate.consistency.clip import ClipFigures, clip_figures
from phys4d.evaluate.consistency.figures import CURVES, FIGURES
from phys4d.evaluate.consistency.predictions import check_truth
from phys4d.evaluate.consistency.table import Scored, summary
from phys4d.evaluate.consistency.video_files import Fitted, fitted_video, say_fitted
from phys4d.kernels.geometry import sample_depth
from phys4d.teachers.interface import DepthKind, DepthTeacher, FlowTeacher
from phys4d.teachers.scenes import refuse_shared

TRUE_READS = "true-reads"
"""The row of what the teachers read off the true videos of the same clips: how right they are."""

_FLOW = tuple(f"{name}{where}" for name in ("epe", "outliers") for where in ("", "_moving", "_static"))
_ALIGNED = ("absrel_aligned", "delta1_aligned", "rmse_aligned", "tae")
READ: dict[DepthKind, frozenset[str]] = {
    "metric": frozenset({f.name for f in FIGURES} | {*CURVES}) - {"warp_l1", "warp_l1_moving"},
    "affine_disparity": frozenset((*_FLOW, *_ALIGNED)),
}
"""Figures and curves that can be read off by depth of a kind. With metric depth dz follows from depth, so that
`warp_l1` would be 0 for any video; disparity up to scale and shift gives no points, hence no tracks and no masks."""

_LEAST_DISPARITY = 1e-6  # of the largest of the clip: what is farther counts as this far


def left_out(kind: DepthKind) -> list[str]:
    """Figures that cannot be read off by depth of this kind, in the order of the table."""
    return [figure.name for figure in FIGURES if figure.name not in READ[kind]]


def score_by_teachers(
    rows: Mapping[str, Mapping[int, Path]], data: Path, depth: DepthTeacher, flow: FlowTeacher, *, workers: int = 2,
    say: Callable[[str], None] = print,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Scores videos by the depth and the flow that teachers read off them.

    The camera is taken to be that of the true clip, frame by frame: its intrinsics for the whole picture, and its path.

    rows: of `videos.video_folders`. data: dataset of the truth, with its videos. depth, flow: not yet prepared.
    workers: threads, of which each holds one clip at a time. say: prints a line.

    Returns row -> `table.summary`, with the records of the teachers, a digest of them and the figures that are left
    out, and the row `TRUE_READS`. Raises UserError for a video or a truth that cannot be scored, a row of that name,
    and a clip that a teacher is trained on.
    """
    if TRUE_READS in rows:
        raise UserError(f"{TRUE_READS}: is the row of the true videos: rename that folder")
    truth = ClipDataset(data, arrays=(*TRUTH, "instance"), required=("intrinsics",))
    for teacher in (depth, flow):
        refuse_shared(truth, teacher.title, teacher.scenes)
        teacher.prepare()
    clips = sorted({number for videos in rows.values() for number in videos})
    scored: dict[str, list[tuple[Scored, str]]] = {row: [] for row in (*rows, TRUE_READS)}

    def one(number: int) -> dict[str, tuple[Scored, str]]:
        paths = {row: videos[number] for row, videos in rows.items() if number in videos}
        return _scored(truth, number, paths, depth, flow)

    pool = ThreadPoolExecutor(workers)
    try:
        with progress("evaluate by teachers", total=len(clips), unit="clips") as bar:
            for found in pool.map(one, clips):
                for row, clip in found.items():
                    scored[row].append(clip)
                bar.advance(1)
    finally:
        pool.shutdown(cancel_futures=True)
    for row, every in scored.items():
        say_fitted(row, every, say)
    record = {"depth": depth.provenance(), "flow": flow.provenance()}
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]
    stated = {"read_by": digest, "teachers": record, "left_out": left_out(depth.depth_kind)}
    say(f"read by {depth.title} and {flow.title}; without {', '.join(stated['left_out'])}")
    return {row: summary([clip for clip, _ in every]) | stated for row, every in scored.items()}


@torch.no_grad()
def _scored(
    truth: ClipDataset, number: int, paths: Mapping[str, Path], depth: DepthTeacher, flow: FlowTeacher
) -> dict[str, tuple[Scored, str]]:
    """Row -> what a clip's video scores, and how it was fitted; the true video, too."""
    sample = truth[number]
    size, where = sample.arrays["depth"].shape, f"{truth.folder}, clip {sample.key}"
    check_truth(size, sample.meta, where)
    videos = {row: fitted_video(path, size, sample.meta) for row, path in paths.items()}
    found = {}
    for row, video in (videos | {TRUE_READS: Fitted(sample.video, "")}).items():
        try:
            read = read_off(video.frames, depth, flow)
        except ValueError as error:
            titles = f"{depth.title} and {flow.title}"
            raise UserError(f"{paths.get(row, where)}: what {titles} read off it is wrong: {error}") from None
        figures = _known(clip_figures(read, sample.arrays, sample.meta), READ[depth.depth_kind])
        found[row] = Scored(sample.key, sample.meta.get("category", ""), figures), video.changed
    return found


def read_off(video: np.ndarray, depth_teacher: DepthTeacher, flow_teacher: FlowTeacher) -> dict[str, np.ndarray]:
    """A prediction for `clip_figures` from pixels alone.

    video: uint8 [T, H, W, 3] RGB. depth_teacher, flow_teacher: prepared.

    Returns depth float32 [T, H, W] (metres, or the inverse of disparity, up to 1 at the nearest), motion float32
    [3, T-1, H, W] whose dz is the depth at t + 1 where the flow ends minus that at t, 0 where it ends outside or on no
    depth, and if depth is metric the masks depth_valid and visible: where the teacher of depth gives any, and where
    the flow back confirms the flow, so that tracks end elsewhere. Raises ValueError for labels of another shape, and
    for those that are negative or not finite.
    """
    depth, valid = depth_teacher.label(video)
    flow, confirmed = flow_teacher.label(video)
    depth = np.where(valid, depth, 0).astype(np.float32)
    metric = depth_teacher.depth_kind == schema.METRIC
    motion = np.concatenate((flow, np.zeros_like(flow[:1]))).astype(np.float32)
    arrays = {"depth": depth, "motion": motion, "depth_valid": valid}
    size = video.shape[:3]
    schema.check_header({k: {"dtype": v.dtype.name, "shape": [*v.shape]} for k, v in arrays.items()}, size)
    schema.check_values(arrays, ())
    schema.check_depth(arrays, {"depth_kind": depth_teacher.depth_kind})
    if not metric:
        disparity = depth / max(float(depth.max()), np.finfo(np.float32).tiny)
        return {"depth": 1 / np.maximum(disparity, np.float32(_LEAST_DISPARITY)), "motion": motion}
    moved, inside = sample_depth(torch.from_numpy(depth[1:]), torch.from_numpy(motion[:2]))
    motion[2] = np.where(inside.numpy() & valid[:-1], moved.numpy() - depth[:-1], 0)
    return {**arrays, "visible": confirmed}


def _known(figures: ClipFigures, read: frozenset[str]) -> ClipFigures:
    """The figures with NaN for what cannot be read."""
    values = {name: value if name in read else math.nan for name, value in figures.values.items()}
    curves = {name: curve if name in read else [math.nan] * len(curve) for name, curve in figures.curves.items()}
    return ClipFigures(values, curves)
