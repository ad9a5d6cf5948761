"""The table of an evaluation as plain text, for a terminal."""

from collections.abc import Mapping
from typing import Any

from phys4d.report.tables import METRICS, number


def text_table(table: Mapping[str, Any]) -> str:
    """One line per metric: the model's mean and standard error over the scenes, and what each baseline has.

    table: of `phys4d.evaluate.folders.evaluate_folder`.
    """
    rows = {"model": table["means"], **table["baselines"]}
    lines = [["metric", "unit", "better", *(name.replace("_", " ") for name in rows)]]
    for metric in METRICS:
        cells = [_cell(figures, metric.key, metric.decimals) for figures in rows.values()]
        lines.append([metric.key, metric.unit, "higher" if metric.more_is_better else "lower", *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    scenes = len(next(iter(table["scenes"].values()))) - (left_out := len(table["left_out"]))
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    more = f"; {left_out} that cannot be read are left out" if left_out else ""
    return "\n".join([*text, "", f"means over {scenes} scenes ± standard errors{more}"])


def _cell(figures: Mapping[str, float], key: str, decimals: int) -> str:
    if key not in figures:
        return ""
    error = figures.get(f"{key}_se")
    mean = number(figures[key], decimals)
    return mean if error is None else f"{mean} ± {number(error, decimals)}"
