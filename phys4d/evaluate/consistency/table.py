"""Results of the suite for one row (a model, a stage, a baseline): means with intervals, by category, and drift."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phys4d.evaluate.consistency.clip import ClipFigures
from phys4d.evaluate.consistency.figures import CURVES, FIGURES
from phys4d.evaluate.intervals import Interval, bootstrap


@dataclass(frozen=True)
class Scored:
    """A clip with its figures. key: of the clip in its dataset. category: of its physics, "" if it is not stated."""

    key: str
    category: str
    figures: ClipFigures


def summary(clips: Sequence[Scored]) -> dict[str, Any]:
    """The content of a row's JSON file, without NaN: what could not be measured is null.

    "figures": name -> mean, 95 % bootstrap interval over clips (low, high) and clips that have a value; "categories":
    category -> the same of its clips; "curves": name -> the same for each frame; "clips": key -> category and values.

    clips: in any order, with different keys.
    """
    ordered = sorted(clips, key=lambda clip: clip.key)
    categories = sorted({clip.category for clip in ordered} - {""})
    return {
        "figures": _figures(ordered),
        "categories": {
            name: _figures([clip for clip in ordered if clip.category == name]) for name in categories
        },
        "curves": {name: _curve([clip.figures.curves[name] for clip in ordered]) for name in CURVES},
        "clips": {
            clip.key: {
                "category": clip.category,
                "values": {name: _number(value) for name, value in clip.figures.values.items()},
            }
            for clip in ordered
        },
    }  # fmt: skip


def _figures(clips: Sequence[Scored]) -> dict[str, Any]:
    return {
        figure.name: _entry(bootstrap([clip.figures.values[figure.name] for clip in clips])) for figure in FIGURES
    }


def _curve(curves: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    frames = max(map(len, curves), default=0)
    return [_entry(bootstrap([curve[t] for curve in curves if t < len(curve)])) for t in range(frames)]


def _entry(interval: Interval) -> dict[str, Any]:
    return {name: _number(value) for name, value in interval._asdict().items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def csv_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each row and clip: row, clip, category, and every figure; empty where there is none.

    rows: name -> `summary`.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [figure.name for figure in FIGURES]
    writer.writerow(["row", "clip", "category", *names])
    for row, table in rows.items():
        for key, clip in table["clips"].items():
            values = (clip["values"][name] for name in names)
            writer.writerow([row, key, clip["category"], *("" if value is None else repr(value) for value in values)])
    return out.getvalue()


def text_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each figure: the mean of every row, with its interval where there are at most three rows.

    rows: name -> `summary`.
    """
    lines = [["figure", "unit", "better", *rows]]
    for figure in FIGURES:
        cells = [_cell(table["figures"][figure.name], wide=len(rows) <= 3) for table in rows.values()]
        if any(cells):
            lines.append([figure.name, figure.unit, "higher" if figure.higher_is_better else "lower", *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    counts = ", ".join(f"{name} {len(table['clips'])}" for name, table in rows.items())
    intervals = " with 95 % bootstrap intervals" if len(rows) <= 3 else ""
    return "\n".join([*text, "", f"means over clips ({counts}){intervals}"])


def _cell(entry: Mapping[str, Any], *, wide: bool) -> str:
    if entry["mean"] is None:
        return ""
    mean = f"{entry['mean']:.4g}"
    return f"{mean} [{entry['low']:.4g}, {entry['high']:.4g}]" if wide and entry["low"] is not None else mean
