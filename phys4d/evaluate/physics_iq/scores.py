"""Both scores of Physics-IQ from the measures of all views, and of parts of them.

Source: physiq/calculate_iq_score.py (Original) and calculate_iq_score_stable.py, `final_score_view` (Verified), of
github.com/google-deepmind/physics-IQ-benchmark. Lists are rounded to four decimals before anything else, as there.

    Original = 100 clip((ST / ST_v + S / S_v + WS / WS_v) / 3 - (MSE - MSE_v))     of means over the benchmark
    Verified = 100 mean over views of (clip(ST / ST_v) + clip(S / S_v) + clip(WS / WS_v) + clip(MSE_v / MSE)) / 4

clip: to 0 ... 1; _v: of take 2 against take 1. Verified adds 1e-8 to each divisor of a view.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from phys4d.engine.errors import UserError
from phys4d.evaluate.physics_iq.comparison import ViewMeasures
from phys4d.evaluate.physics_iq.layout import VIEWS, View

# Scenarios that families of our simulator resemble (docs/benchmark-policy.md): every score is given without them, too.
CLOSE = ("balls-collide", "two-balls-pass", "block-domino", "dominos-with-space", "blow-balloon")
_EPSILON = 1e-8


@dataclass(frozen=True)
class Row:
    """A view with what was measured of it."""

    view: View
    measures: ViewMeasures


def rounded(values: Sequence[float]) -> list[float]:
    """To four decimals."""
    return [round(value, 4) for value in values]


def original(rows: Sequence[Row]) -> float:
    """The score of Physics-IQ Original in per cent, rounded to two decimals; of any views.

    Raises UserError where the real videos have no motion in common, by which it would divide.
    """
    views = [view for view in VIEWS if any(row.view.view == view for row in rows)]
    scenarios = list(dict.fromkeys(row.view.scenario for row in rows))
    table = {(row.view.scenario, row.view.view): row.measures for row in rows}

    def of_lists(values: Callable[[ViewMeasures], list[float]]) -> float:
        joined = [
            np.mean(np.concatenate([rounded(values(table[s, v])) for v in views if (s, v) in table])) for s in scenarios
        ]
        return float(np.mean(joined))

    def of_views(values: Callable[[ViewMeasures], list[float]]) -> float:
        return float(np.mean([_mean(values, view, table, scenarios) for view in views]))

    iou = (
        of_lists(lambda m: m.spatiotemporal_iou["v1"]),
        of_views(lambda m: [m.spatial_iou["v1"]]),
        of_views(lambda m: [m.weighted_spatial_iou["v1"]]),
    )
    variance = (
        round(of_views(lambda m: rounded(m.spatiotemporal_iou["variance"])), 4),
        round(of_views(lambda m: [m.spatial_iou["variance"]]), 5),
        round(of_views(lambda m: [m.weighted_spatial_iou["variance"]]), 4),
    )
    if not all(variance):
        raise UserError(f"{rows[0].view.take_1.parent}: both takes of the real videos move in other places: no score")
    error = of_lists(lambda m: m.mse["v1"])
    error_variance = round(of_views(lambda m: rounded(m.mse["variance"])), 4)
    score = sum(a / b for a, b in zip(iou, variance, strict=True)) / 3 - (error - error_variance)
    return round(max(min(score * 100, 100.0), 0.0), 2)


def _mean(
    values: Callable[[ViewMeasures], list[float]], view: str, table: dict[tuple[str, str], ViewMeasures],
    scenarios: Sequence[str],
) -> float:  # fmt: skip
    every = [value for s in scenarios if (s, view) in table for value in values(table[s, view])]
    return sum(every) / len(every)


def verified(row: Row) -> dict[str, float]:
    """The four terms of one view, each from 0 to 1, and their mean as "score"."""
    m = row.measures
    ratios = {
        "spatial": (m.spatial_iou["v1"], m.spatial_iou["variance"]),
        "weighted_spatial": (m.weighted_spatial_iou["v1"], m.weighted_spatial_iou["variance"]),
        "spatiotemporal": tuple(float(np.mean(rounded(m.spatiotemporal_iou[name]))) for name in ("v1", "variance")),
        "mse": tuple(float(np.mean(rounded(m.mse[name]))) for name in ("v1", "variance")),
    }
    terms = {name: value / (variance + _EPSILON) for name, (value, variance) in ratios.items()}
    terms["mse"] = 1 / terms["mse"] if terms["mse"] else float("inf")
    terms = {name: min(max(value, 0.0), 1.0) for name, value in terms.items()}
    return {**terms, "score": float(np.mean(list(terms.values())))}


def verified_score(rows: Sequence[Row]) -> float:
    """The score of Physics-IQ Verified in per cent, rounded to two decimals; of any views."""
    return round(round(float(np.mean([verified(row)["score"] for row in rows])), 4) * 100, 2)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Both scores of all views, without the scenarios that are close to our simulator, and of each kind, view and
    scenario. "original" of a part is the formula of the whole, over the part."""

    def scores(part: Sequence[Row]) -> dict[str, Any]:
        return {"original": _original(part), "verified": verified_score(part), "views": len(part)}

    def by(key: Callable[[Row], str]) -> dict[str, dict[str, Any]]:
        names = dict.fromkeys(key(row) for row in rows)
        return {name: scores([row for row in rows if key(row) == name]) for name in names if name}

    apart = [row for row in rows if row.view.scenario.removeprefix("trimmed-") not in CLOSE]
    return {
        "original": original(rows),
        "verified": verified_score(rows),
        "without_close_scenarios": scores(apart) if apart else None,
        "close_scenarios": list(CLOSE),
        "physics": by(lambda row: row.view.kind),
        "views": by(lambda row: row.view.view),
        "scenarios": by(lambda row: row.view.scenario),
        "terms": {
            name: float(np.mean([verified(row)[name] for row in rows]))
            for name in ("spatiotemporal", "spatial", "weighted_spatial", "mse")
        },
    }


def _original(rows: Sequence[Row]) -> float | None:
    """None for a part whose takes have no motion in common."""
    try:
        return original(rows)
    except UserError:
        return None
