"""Changes of metrics from stage to stage, paired over the same scenes and noise."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any, NamedTuple

READ = ("reward", "chamfer_4d")  # metrics of generated clips that depend on the heads


class Change(NamedTuple):
    """A paired change.

    mean: mean of after - before.
    standard_error: of the mean.
    scenes: number of scenes.
    """

    mean: float
    standard_error: float
    scenes: int


def paired(before: Sequence[float | None], after: Sequence[float | None]) -> Change | None:
    """The change over the scenes measured in both lists; None for fewer than two, or if the lists differ in length."""
    if len(before) != len(after):
        return None
    change = [b - a for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    if len(change) < 2:
        return None
    return Change(fmean(change), stdev(change) / math.sqrt(len(change)), len(change))


def changes(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Changes of every metric from each stage to the next: "<stage> to <stage>" -> {name: mean, `<name>_se`: standard
    error}.

    Metrics in READ are omitted if the heads of the two stages differ, since the difference would be that of the heads
    as much as that of the clips.

    tables: stage -> evaluation/<stage>.json, in the order of training.
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
