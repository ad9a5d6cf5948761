"""The metrics of a report, further figures as an HTML table, and a sentence about the effect of a policy stage."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from phys4d.evaluate.changes import paired
from phys4d.report.artefacts import MEASURED


@dataclass(frozen=True)
class Metric:
    """A column of the table.

    key: name in summary.json.
    unit: of the values.
    more_is_better: direction of improvement.
    decimals: printed decimals.
    meaning: definition.
    """

    key: str
    unit: str
    more_is_better: bool
    decimals: int
    meaning: str


METRICS = (
    Metric("absrel", "ratio", False, 4, "depth read off true clips: mean of |d − d*| / d*"),
    Metric("delta1", "share", True, 4, "share of pixels with max(d/d*, d*/d) below 1.25"),
    Metric(
        "epe",
        "px",
        False,
        3,
        "motion read off true clips: mean length of (du, dv) − (du*, dv*), visible pixels",
    ),
    Metric("epe_moving", "px", False, 3, "the same where the object really moves"),
    Metric(
        "warp_l1",
        "m",
        False,
        4,
        "depth at t moved by the read motion against the read depth at t+1, mean |·|",
    ),
    Metric(
        "chamfer_4d",
        "m",
        False,
        4,
        "generated clips lifted to points against the true points, mean over frames",
    ),
    Metric("psnr_moving", "dB", True, 2, "generated clips against true ones where objects move"),
    Metric("reward", "m", True, 4, "minus the 4D Chamfer distance of what moves, as reinforce maximises it"),
)
def number(value: Any, decimals: int) -> str:
    """A number with a true minus sign; missing and non-finite values are a dash."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{value:.{decimals}f}".replace("-", "−")


def further_figures(stages: Mapping[str, Mapping[str, Any]], baselines: Mapping[str, Mapping[str, Any]]) -> str:
    """The values of summary.json that are not columns of the table, or an empty string."""
    known = {m.key for m in METRICS}
    rows = {**{s: stages[s] for s in MEASURED if s in stages}, **baselines}
    names = {name for row in rows.values() for name in row}
    extra = sorted(name for name in names - known if not (name.endswith("_se") and name[:-3] in names))
    if not extra:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in extra)
    body = "".join(
        f"<tr><th>{escape(row.replace('_', ' '))}</th>"
        + "".join(_cell(figures, name) for name in extra)
        + "</tr>"
        for row, figures in rows.items()
    )
    return f"<details><summary>Further figures of the summary</summary>{_table(head, body)}</details>"


def reward_sentence(
    policy: str,
    start: str,
    stages: Mapping[str, Mapping[str, Any]],
    rewards: Mapping[str, Sequence[float]],
    readers: Mapping[str, str],
) -> str:
    """A sentence about the held-out reward before and after a policy stage, for better or worse.

    policy: the stage that is trained on the reward.
    start: the stage that it started from.
    stages: stage -> metrics, from summary.json.
    rewards: stage -> rewards of the same held-out scenes, to pair them; if they do not pair, the two standard errors
        are added as independent.
    readers: stage -> digest of its heads; rewards read by different heads are not compared.
    """
    before, after = stages.get(start, {}), stages.get(policy, {})
    if not after:
        return f"This run has no {policy} stage, so there is no reward before and after it."
    figures = [before.get("reward"), before.get("reward_se"), after.get("reward"), after.get("reward_se")]
    shown = [number(figure, 4) for figure in figures]
    text = (
        f"Held-out reward before {policy} (after {start}): {shown[0]} ± {shown[1]} m; "
        f"after {policy}: {shown[2]} ± {shown[3]} m. "
    )
    if readers.get(start) != readers.get(policy):
        return text + "Different heads read the clips of the two stages, so the two rewards do not compare."
    if "–" in shown:
        return text + "A figure or its standard error is missing, so nothing is concluded from it."
    old, old_se, new, new_se = (float(figure) for figure in figures if figure is not None)
    by_scene = paired(rewards.get(start, []), rewards.get(policy, []))
    if by_scene is not None:
        change, change_se, scenes = by_scene
        how = f"paired over the same {scenes} scenes and noise"
    else:
        change, change_se = new - old, math.hypot(old_se, new_se)
        how = "the two errors added as if independent"
    if abs(change) < 2 * change_se or change == 0:
        verdict = "less than two standard errors, so this run shows no change"
    else:
        verdict = f"more than two standard errors: {policy} made it {'better' if change > 0 else 'worse'}"
    sign = "+" if change > 0 else ""
    return (
        f"{text}The change is {sign}{number(change, 4)} ± {number(change_se, 4)} m ({how}): "
        f"{verdict}. The errors are over scenes of this one run; they say nothing of another seed."
    )


def _table(head: str, body: str) -> str:
    rows = f"<thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<table class="figures">{rows}</table>'


def _cell(figures: Mapping[str, Any], name: str) -> str:
    shown, error = number(figures.get(name), 4), figures.get(f"{name}_se")
    if shown == "–":
        return '<td class="absent">–</td>'
    return f"<td>{shown}{'' if error is None else f'<small>± {number(error, 4)}</small>'}</td>"
