"""What a sweep found: tables for a terminal, and the files of the command."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phys4d.engine.output import check_folder, write_file
from phys4d.engine.run_folder.provenance import provenance
from phys4d.evaluate.metrics import Estimate
from phys4d.probe.picture import Panel, heat_maps
from phys4d.probe.sweep import ERRORS, Cell, Sweep

TITLES = {
    "depth": "depth: mean |difference of log depth|",
    "motion": "motion: end-point error, pixels per frame",
    "moving": "motion of tokens that move: end-point error, pixels per frame",
}
"""What the errors are."""


def named(taps: tuple[int, ...]) -> str:
    """A set of blocks in words of a table: 3, or 3,7."""
    return ",".join(map(str, taps))


def tables(found: Sweep) -> str:
    """Markdown: a table for each error, sets of blocks down and noise levels across, and the smallest of each."""
    sigmas = list(dict.fromkeys(cell.sigma for cell in found.cells))
    parts = []
    for error in _measured(found):
        lines = [f"{TITLES[error]} ({found.constant[error].mean:.4f} for the mean label)", ""]
        levels = " | ".join(f"sigma {sigma:g}" for sigma in sigmas)
        lines += [f"| blocks | {levels} |", "|---" * (1 + len(sigmas)) + "|"]
        for taps in dict.fromkeys(cell.taps for cell in found.cells):
            row = [cell.errors[error] for cell in found.cells if cell.taps == taps]
            lines.append(f"| {named(taps)} | {' | '.join(f'{value.mean:.4f}' for value in row)} |")
        least = best(found, error)
        value = least.errors[error]
        lines += [
            "", f"least at blocks {named(least.taps)}, sigma {least.sigma:g}: {value.mean:.4f} ± "
            f"{value.standard_error:.4f} over {value.clips} clips",
        ]  # fmt: skip
        parts.append("\n".join(lines))
    counts = f"{found.fitted} clips fitted, {found.held_out} held out"
    return "\n\n".join([*parts, counts])


def best(found: Sweep, error: str) -> Cell:
    """The cell with the smallest error of this name; the first of equal ones."""
    return min(found.cells, key=lambda cell: cell.errors[error].mean)


def write_results(found: Sweep, folder: Path, about: Mapping[str, Any]) -> None:
    """Writes probe.csv, probe.json and probe.png to a folder, which may hold other files. UserError where it cannot.

    found: the sweep. about: model, dataset and settings, for probe.json and the picture's title.
    """
    check_folder(folder)
    rows = [{"taps": named(c.taps), "sigma": c.sigma, **_numbers(c.errors)} for c in found.cells]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_file(folder / "probe.csv", text.getvalue().encode())
    whole = {
        **about, "fitted": found.fitted, "held_out": found.held_out, "constant": _numbers(found.constant),
        "cells": rows, "best": {error: _place(best(found, error)) for error in _measured(found)},
        "provenance": provenance(),
    }  # fmt: skip
    write_file(folder / "probe.json", (json.dumps(whole, indent=1) + "\n").encode())
    title = f"{about['model']}: blocks x noise levels on {found.held_out} held-out clips of {about['data']}"
    heat_maps([_panel(found, error) for error in _measured(found)], title, folder / "probe.png")


def _measured(found: Sweep) -> list[str]:
    """The errors that a held-out clip has a value of."""
    return [error for error in ERRORS if found.constant[error].clips]


def _place(cell: Cell) -> dict[str, Any]:
    return {"taps": list(cell.taps), "sigma": cell.sigma}


def _numbers(errors: Mapping[str, Estimate]) -> dict[str, float | None]:
    """Mean and standard error of every error; None where there is none."""
    found: dict[str, float | None] = {}
    for name in ERRORS:
        estimate = errors[name]
        found[name] = estimate.mean if estimate.clips else None
        found[f"{name}_se"] = estimate.standard_error if estimate.clips > 1 else None
    return found


def _panel(found: Sweep, error: str) -> Panel:
    sigmas = list(dict.fromkeys(cell.sigma for cell in found.cells))
    sets = list(dict.fromkeys(cell.taps for cell in found.cells))
    values = {(cell.taps, cell.sigma): cell.errors[error].mean for cell in found.cells}
    title, _, unit = TITLES[error].partition(": ")
    return Panel(
        title, unit, f"the mean label: {found.constant[error].mean:.3f}",
        [named(taps) for taps in sets], [f"{sigma:g}" for sigma in sigmas],
        [[values[taps, sigma] for sigma in sigmas] for taps in sets],
    )  # fmt: skip
