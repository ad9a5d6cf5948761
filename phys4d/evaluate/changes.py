"""What a stage changed: every figure paired over the same scenes and noise."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any, NamedTuple

READ = ("reward", "chamfer_4d")  # figures of generated clips that depend on the heads that read them


class Change(NamedTuple):
    """Mean of after - before over `scenes` scenes, and its standard error."""

    mean: float
    standard_error: float
    scenes: int


def paired(before: Sequence[float | None], after: Sequence[float | None]) -> Change | None:
    """The change over the scenes that both have measured; None for fewer than two, or where the lists do not pair."""
    if len(before) != len(after):
        return None
    change = [b - a for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    if len(change) < 2:
        return None
    return Change(fmean(change), stdev(change) / math.sqrt(len(change)), len(change))


def changes(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """From each stage to the next, by "<stage> to <stage>": the change of every figure and `<name>_se`.

    Figures of READ are left out where the two stages read geometry with different weights: their difference would be
    that of the heads as much as of the clips. tables: evaluation/<stage>.json by stage, in the order of training.
    """
    rows: dict[str, dict[str, float]] = {}
    for old, new in pairwise(tables):
        row = rows.setdefault(f"{old} to {new}", {})
        same_reader = tables[old]["reader"] == tables[new]["reader"]
        for name, before in tables[old]["scenes"].items():
            if name in READ and not same_reader:
                continue
            change = paired(before, tables[new]["scenes"].get(name, []))
            if change is not None:
                row |= {name: change.mean, f"{name}_se": change.standard_error}
    return rows
