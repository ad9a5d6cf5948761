"""Results of an evaluation: metrics of every scene, their means, and the arrays of the scenes in the report."""

import io
import json
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from phys4d.engine import integrity
from phys4d.engine.errors import UserError
from phys4d.engine.storage import replace_bytes
from phys4d.evaluate.metrics import ClipMean

Figures = dict[str, Tensor]  # metrics by name, [B] on the CPU; NaN where a scene has nothing to measure
NAMES = ("key", "category", "family")  # of a scene: its key, and fields of its json, "" where it lacks one


class Evaluation:
    """Metrics of the model and the baselines, metrics of every scene, and arrays of the scenes in the report.

    reader: digest of the weights that depth and motion are read with (`reader_digest`). Metrics of generated clips that
        depend on these weights are comparable only between models with the same reader.
    precision: that the transformer was evaluated in.
    left_out: scenes that could not be read, each with what is wrong with it; those that were are numbered with them.
    """

    def __init__(self, reader: str, precision: str, left_out: Mapping[int, str] | None = None) -> None:
        self.reader, self.precision, self.left_out = reader, precision, dict(left_out or {})
        self.figures: dict[str, list[Figures]] = defaultdict(list)
        self.names: dict[str, list[str]] = {name: [] for name in NAMES}
        self.shown: dict[str, list[np.ndarray]] = defaultdict(list)
        self.truth: dict[str, list[np.ndarray]] = defaultdict(list)

    def add(self, row: str, figures: Mapping[str, Tensor]) -> None:
        """Appends the metrics of a batch to the row of the model or of a baseline."""
        self.figures[row].append({name: values.cpu() for name, values in figures.items()})

    def name(self, key: str, meta: Mapping[str, Any]) -> None:
        """Appends what a scene is called: the key and the json of its clip."""
        for name in NAMES:
            self.names[name].append(key if name == "key" else meta.get(name, ""))

    def show(self, clip: int, **arrays: Tensor) -> None:
        """Keeps arrays [B, ...] of one clip of the batch for the report."""
        for name, array in arrays.items():
            self.shown[name].append(array[clip].cpu().numpy())

    def extend(self, other: "Evaluation") -> None:
        """Appends the results of another part of the same evaluation."""
        for row, parts in other.figures.items():
            self.figures[row] += parts
        for name, values in other.names.items():
            self.names[name] += values
        for kept, more in ((self.shown, other.shown), (self.truth, other.truth)):
            for name, arrays in more.items():
                kept[name] += arrays

    def table(self) -> dict[str, Any]:
        """The content of the json file: means over scenes with `<name>_se`, baselines, metrics of every scene (None
        where there is none, as of those that are left out) for the model and for each baseline, key, category and
        family of every scene, reader, precision, and what is wrong with those left out.
        """
        rows = {row: _with_errors(parts) for row, parts in self.figures.items()}
        scenes = {row: self._scenes(parts) for row, parts in self.figures.items()}
        names: dict[str, list[str | None]] = {name: list(values) for name, values in self.names.items()}
        for scene in sorted(self.left_out):  # names of a scene stay at its number
            for texts in names.values():
                texts.insert(scene, None)
        stated = {"reader": self.reader, "precision": self.precision, "left_out": list(self.left_out.values())}
        return {
            "means": rows.pop("model"), "baselines": rows, "scenes": scenes.pop("model"), "baseline_scenes": scenes,
            "names": names,
        } | stated  # fmt: skip

    def _scenes(self, parts: Sequence[Figures]) -> dict[str, list[float | None]]:
        """Metric -> values of every scene; None where there is none."""
        scenes: dict[str, list[float | None]] = defaultdict(list)
        for part in parts:
            for name, values in part.items():
                scenes[name] += [None if math.isnan(v) else v for v in values.double().tolist()]
        for scene in sorted(self.left_out):  # figures of a scene stay at its number
            for numbers in scenes.values():
                numbers.insert(scene, None)
        return scenes


def _with_errors(parts: Sequence[Figures]) -> dict[str, float]:
    mean, row = ClipMean(), dict[str, float]()
    for figures in parts:
        mean.add(figures)
    for name, estimate in mean.summary().items():
        row |= {name: estimate.mean, f"{name}_se": estimate.standard_error}
    return row


def write_arrays(result: Evaluation, out: Path, stage: str) -> None:
    """Writes the kept arrays to out/truth.npz and out/<stage>.npz."""
    out.mkdir(exist_ok=True)
    for name, kept in (("truth", result.truth), (stage, result.shown)):
        arrays: dict[str, Any] = {key: np.stack(values) for key, values in kept.items()}
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        replace_bytes(out / f"{name}.npz", file.getvalue())


def record_digests(out: Path) -> None:
    """Writes the manifest of the files in a folder of results; hidden ones are what a kill left of files."""
    names = [path.name for path in out.iterdir() if path.is_file() and not path.name.startswith(".")]
    integrity.write_manifest(out, integrity.digests(out, names))


def finished(out: Path) -> Collection[str]:
    """The files of a folder of results, which are as they were written; none if the folder has no manifest."""
    if not (out / integrity.MANIFEST).exists():
        return ()
    advice = f"remove {out}, then --resume measures again"
    integrity.check(out, advice)
    return integrity.read_manifest(out, advice)


def read_table(out: Path, stage: str) -> dict[str, Any]:
    """The table of a stage that `evaluate_stage` wrote to the folder `out`. Raises UserError if it is damaged."""
    if f"{stage}.json" not in finished(out):
        raise UserError(f"{out}: holds no results of {stage}: remove it, then --resume measures again")
    table: dict[str, Any] = json.loads((out / f"{stage}.json").read_bytes())
    return table


def forget_results(out: Path, stage: str) -> None:
    """Takes a stage's files out of the manifest of a folder of results, so that the stage counts as not measured.

    Raises UserError if the manifest is damaged.
    """
    if not (out / integrity.MANIFEST).exists():
        return
    files = integrity.read_manifest(out, f"remove {out}, then --resume measures again")
    kept = {name: digest for name, digest in files.items() if name not in (f"{stage}.json", f"{stage}.npz")}
    if kept != files:
        integrity.write_manifest(out, kept)
