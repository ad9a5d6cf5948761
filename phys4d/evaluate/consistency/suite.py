"""`phys4d evaluate --suite 4d` for folders of clips: every clip against its truth, on several processes."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from phys4d.clips import TRUTH
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.errors import UserError
from phys4d.engine.output import check_folder, write_file
from phys4d.evaluate.consistency.clip import ClipFigures, clip_figures
from phys4d.evaluate.consistency.predictions import check_truth, clip_folders, read_prediction, still
from phys4d.evaluate.consistency.table import Scored, csv_table, summary

BASELINES = ("still", "true")
"""Rows of baselines: the true first frame held, and the truth itself, which shows what reading off pixels costs."""

_Job = tuple[Path, int, dict[str, Path], bool]


def score_folders(
    folders: Sequence[Path], data: Path, *, baselines: bool = False, workers: int = 2,
    say: Callable[[str], None] = print,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Scores folders of clips, each a model or a run of one: name of the folder -> `table.summary`.

    folders: as `predictions.clip_folders` reads them; a clip is named by the key of its truth.
    data: dataset folder of the truth. baselines: also gives the rows `BASELINES`, of all clips that a folder has.
    workers: processes, of which each holds one clip at a time; 1: this one. say: prints a line.

    Raises UserError: clips without truth, of another size, or damaged.
    """
    truth = _truth(data)
    names = _names(folders)
    known = {key: index for index, key in enumerate(truth.keys().to_pylist())}
    paths: dict[str, dict[str, Path]] = {}
    for name, folder in zip(names, folders, strict=True):
        clips = clip_folders(folder)
        if unknown := sorted(clips.keys() - known.keys()):
            some = next(iter(known), None)
            raise UserError(
                f"{clips[unknown[0]]}: {data} has no clip of that name (its first is {some}): "
                "name each clip by the key of its truth"
            )
        for key, path in clips.items():
            paths.setdefault(key, {})[name] = path
        if len(clips) < len(known):
            say(f"{folder}: {len(clips)} of the {len(known)} clips of {data}")
    jobs = [(data, known[key], paths[key], baselines) for key in sorted(paths)]
    scored: dict[str, list[Scored]] = {name: [] for name in (*names, *(BASELINES if baselines else ()))}
    for done, (key, category, figures) in enumerate(_results(jobs, workers), 1):
        for row, found in figures.items():
            scored[row].append(Scored(key, category, found))
        if done == len(jobs) or done % max(1, len(jobs) // 10) == 0:
            say(f"{done} of {len(jobs)} clips")
    return {row: summary(clips) for row, clips in scored.items()}


def _names(folders: Sequence[Path]) -> list[str]:
    names = [folder.resolve().name for folder in folders]
    if taken := next((name for name in names if names.count(name) > 1 or name in BASELINES), None):
        raise UserError(f"{taken}: rows are named by their folders: rename those that are called alike, or {BASELINES}")
    return names


def _results(jobs: Sequence[_Job], workers: int) -> Any:
    if workers == 1 or len(jobs) == 1:
        yield from map(_score, jobs)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_one_thread) as pool:
        try:
            yield from pool.map(_score, jobs)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@cache
def _truth(data: Path) -> ClipDataset:
    """The dataset, once in each process."""
    return ClipDataset(data, arrays=(*TRUTH, "instance"), required=("intrinsics",))


def _score(job: _Job) -> tuple[str, str, dict[str, ClipFigures]]:
    """Key, category and rows of one clip; it reads the clip, its truth and nothing else."""
    data, index, paths, baselines = job
    sample = _truth(data).read(index, video=False)
    size = sample.arrays["depth"].shape
    check_truth(size, sample.meta, f"{data}, clip {sample.key}")
    rows: dict[str, ClipFigures] = {
        name: clip_figures(read_prediction(path, size), sample.arrays, sample.meta) for name, path in paths.items()
    }
    if baselines:
        rows["still"] = clip_figures(still(sample.arrays), sample.arrays, sample.meta)
        rows["true"] = clip_figures(sample.arrays, sample.arrays, sample.meta)
    return sample.key, sample.meta.get("category", ""), rows


def write_results(rows: Mapping[str, Mapping[str, Any]], out: Path) -> None:
    """Writes ROW.json for each row, and 4d.csv with every clip of all of them. Raises UserError if it cannot."""
    check_folder(out)
    for row, table in rows.items():
        write_file(out / f"{row}.json", (json.dumps({"suite": "4d", "row": row, **table}, indent=1) + "\n").encode())
    write_file(out / "4d.csv", csv_table(rows).encode())
