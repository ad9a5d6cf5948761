"""Reads the files of a finished run for the report; computes and invents nothing."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phys4d.engine import integrity
from phys4d.engine.errors import UserError
from phys4d.engine.run_folder.metrics import read_metrics
from phys4d.stages.registry import STAGES

MEASURED = tuple(name for name, spec in STAGES.items() if spec.reads_geometry)  # stages that are evaluated
_TRUTH = (
    "keys", "captions", "fps", "video", "depth", "motion", "visible", "moving", "intrinsics", "camera_to_world",
)  # fmt: skip
_STAGE = ("read_depth", "read_motion", "video", "depth", "motion", "reward")
_RESUME = "resume the run (phys4d train RUN.toml --resume), which writes what is missing"
_AGAIN = f"remove the folder evaluation, then {_RESUME}"

Curve = tuple[np.ndarray, np.ndarray]  # steps, values, both float [N] and finite


@dataclass(frozen=True)
class Artefacts:
    """The files of a run folder; absent parts are empty.

    folder: run folder.
    summary: summary.json.
    curves: stage -> name -> (steps, values), from metrics.jsonl.
    unreadable: number of broken lines in metrics.jsonl.
    config: config.toml as text.
    provenance: provenance.json, else that of the summary.
    truth: evaluation/truth.npz by array name, K scenes.
    stages: stage -> arrays of evaluation/<stage>.npz by name.
    ranked, ranked_stages: the same from evaluation/ranked/, the best, median and worst scenes.
    tables: stage -> evaluation/<stage>.json, of the stages that have one.
    """

    folder: Path
    summary: dict[str, Any]
    curves: dict[str, dict[str, Curve]]
    unreadable: int
    config: str
    provenance: dict[str, Any]
    truth: dict[str, np.ndarray]
    stages: dict[str, dict[str, np.ndarray]]
    ranked: dict[str, np.ndarray]
    ranked_stages: dict[str, dict[str, np.ndarray]]
    tables: dict[str, dict[str, Any]]


def read_artefacts(folder: Path) -> Artefacts:
    """Reads a run folder. Raises UserError if summary.json is missing, or a file is damaged or unexpected."""
    summary_file = folder / "summary.json"
    if not summary_file.is_file():
        raise UserError(f"no summary: {summary_file}: {_RESUME}")
    summary = _json(summary_file)
    if not isinstance(summary.get("stages"), dict):
        raise UserError(f"no stages: {summary_file}, key stages: remove it, then {_RESUME}")
    curves, unreadable = _curves(folder / "metrics.jsonl")
    config_file, provenance_file = folder / "config.toml", folder / "provenance.json"
    evaluation = folder / "evaluation"
    for results in (evaluation, evaluation / "ranked"):
        if (results / integrity.MANIFEST).exists():
            integrity.check(results, _AGAIN)
    truth, stages = _scenes(evaluation)
    ranked, ranked_stages = _scenes(evaluation / "ranked")
    tables = {stage: evaluation / f"{stage}.json" for stage in MEASURED}
    return Artefacts(
        folder=folder,
        summary=summary,
        curves=curves,
        unreadable=unreadable,
        config=config_file.read_text(encoding="utf-8") if config_file.is_file() else "",
        provenance=_json(provenance_file) if provenance_file.is_file() else summary.get("provenance", {}),
        truth=truth,
        stages=stages,
        ranked=ranked,
        ranked_stages=ranked_stages,
        tables={stage: _table(file) for stage, file in tables.items() if file.is_file()},
    )


def _scenes(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """truth.npz and the stages' arrays of the same scenes; empty if there is no truth.npz."""
    truth = _arrays(folder / "truth.npz", _TRUTH)
    read = {stage: _arrays(folder / f"{stage}.npz", _STAGE) for stage in MEASURED} if truth else {}
    stages = {stage: arrays for stage, arrays in read.items() if arrays}
    for stage, arrays in stages.items():
        for name in ("video", "depth", "motion"):
            if arrays[name].shape != truth[name].shape:
                raise UserError(
                    f"shapes differ: {folder / stage}.npz, {name} {arrays[name].shape}, the truth has "
                    f"{truth[name].shape}: {_AGAIN}"
                )
    return truth, stages


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"not JSON: {file}, line {error.lineno}: {_AGAIN}") from error
    if not isinstance(content, dict):
        raise UserError(f"not a JSON object: {file}: {_AGAIN}")
    return content


def _table(file: Path) -> dict[str, Any]:
    """The table of a stage. Raises UserError if a part of it is missing."""
    table = _json(file)
    if missing := [key for key in ("scenes", "baseline_scenes", "names", "reader") if key not in table]:
        raise UserError(f"keys missing: {file}, {', '.join(missing)}: {_AGAIN}")
    return table


def _arrays(file: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    if not file.is_file():
        return {}
    with np.load(file, allow_pickle=False) as arrays:
        missing = [name for name in names if name not in arrays]
        if missing:
            raise UserError(f"arrays missing: {file}, {', '.join(missing)}: {_AGAIN}")
        return {name: arrays[name] for name in names}


def _curves(file: Path) -> tuple[dict[str, dict[str, Curve]], int]:
    """Curves of metrics.jsonl and the number of unreadable lines.

    A kill may truncate a line, and a resumed run repeats steps: the later value of a step is used.
    """
    if not file.is_file():
        return {}, 0
    values: dict[str, dict[str, dict[int, float]]] = {}
    entries, unreadable = read_metrics(file)
    for entry in entries:
        stage, step = entry["stage"], entry["step"]
        for name, value in entry.items():
            if name not in ("stage", "step", "time") and isinstance(value, int | float) and math.isfinite(value):
                values.setdefault(stage, {}).setdefault(name, {})[step] = float(value)
    return {
        stage: {
            name: (np.array(sorted(points), dtype=float), np.array([points[s] for s in sorted(points)]))
            for name, points in names.items()
        }
        for stage, names in values.items()
    }, unreadable
