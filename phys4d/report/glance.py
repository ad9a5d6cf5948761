"""The summary of a run: every metric of the stages between the baselines, and what got better or worse."""

from collections.abc import Mapping
from html import escape
from itertools import pairwise
from typing import Any

from phys4d.evaluate.compare import Difference, Results, differences
from phys4d.report.artefacts import MEASURED, Artefacts
from phys4d.report.chips import chip
from phys4d.report.tables import METRICS, Metric, number

_STILL = {"epe": "zero_motion", "epe_moving": "zero_motion"}  # its baseline; of others static_video
_COLUMNS = {
    "still": ("nothing moves", "the first frame held, read by the last stage's heads; for epe no motion"),
    "true_video": ("true video", "read by the last stage's heads: what a perfect generator scores"),
    "truth": ("truth", "the true clip with its true depth and motion: the floor of each figure"),
}

Changes = dict[str, dict[str, Difference]]  # stage -> metric -> its change from what the stage is compared with


def stage_results(run: Artefacts) -> dict[str, Results]:
    """Figures of every scene by stage, for the stages with an evaluation/<stage>.json."""
    return {stage: _results(stage, table["scenes"], table["reader"]) for stage, table in run.tables.items()}


def _results(name: str, lists: Mapping[str, list[float | None]], reader: str) -> Results:
    figures = {
        metric: {str(scene): float(value) for scene, value in enumerate(values) if value is not None}
        for metric, values in lists.items()
    }
    return Results(name, "evaluation", figures, reader)


def changes(run: Artefacts) -> Changes:
    """Each stage against the one before it, paired over the scenes."""
    results = stage_results(run)
    return {new: differences(results[old], results[new]) for old, new in pairwise(results)}


def against_still(run: Artefacts) -> dict[str, Difference]:
    """The last stage against a video in which nothing moves; {} without its evaluation."""
    if not run.tables:
        return {}
    last = list(run.tables)[-1]
    table, found = run.tables[last], dict[str, list[float | None]]()
    for metric in METRICS:
        values = table["baseline_scenes"].get(_STILL.get(metric.key, "static_video"), {})
        if metric.key in values:
            found[metric.key] = values[metric.key]
    if not found:
        return {}
    return differences(_results("still", found, table["reader"]), stage_results(run)[last])


def glance(run: Artefacts) -> str:
    """A sentence for each stage, and the table: a row for each metric, a column for each stage and baseline."""
    stages, baselines = run.summary["stages"], run.summary.get("baselines") or {}
    found, still = changes(run), against_still(run)
    shown = [stage for stage in MEASURED if stage in stages]
    last = shown[-1] if shown else ""
    before = dict(zip(shown[1:], shown, strict=False))
    title, meaning = _COLUMNS["still"]
    head = _head("still", title, f"{meaning}; below, {last} against it" if still else meaning)
    for stage in shown:
        head += _head("stage", stage, f"change from {before[stage]}" if stage in before else "")
    for name in ("true_video", "truth"):
        head += _head(name, *_COLUMNS[name])
    rows = []
    for metric in METRICS:
        of = baselines.get(_STILL.get(metric.key, "static_video")) or {}
        cells = _cell("baseline", title, of, metric, still.get(metric.key), f"{last}: ")
        for stage in shown:
            cells += _cell("model", stage, stages[stage], metric, found.get(stage, {}).get(metric.key))
        for name in ("true_video", "truth"):
            cells += _cell("baseline", _COLUMNS[name][0], baselines.get(name) or {}, metric)
        arrow = "higher is better" if metric.more_is_better else "lower is better"
        unit = f" [{metric.unit}]" if metric.unit else ""
        name = f"{escape(metric.key)} {'↑' if metric.more_is_better else '↓'}"
        meaning = f"<small>{escape(metric.meaning)}{unit}; {arrow}</small>"
        rows.append(f'<tr><th scope="row">{name}{meaning}</th>{cells}</tr>')
    body = f"<thead><tr><th>metric</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    absent = [stage for stage in MEASURED if stage not in stages]
    note = f"<p><small>Not part of this run: {', '.join(absent)}.</small></p>" if absent else ""
    return f'{_sentences(found, still, last)}<div class="scroll"><table class="glance">{body}</table></div>{note}'


def _head(kind: str, title: str, meaning: str) -> str:
    more = f"<small>{escape(meaning)}</small>" if meaning else ""
    return f'<th scope="col" class="{kind}">{escape(title)}{more}</th>'


def _cell(
    kind: str, label: str, figures: Mapping[str, Any], metric: Metric, change: Difference | None = None, of: str = ""
) -> str:
    """A value, and below it a change. of: begins the words of the change."""
    below = "" if change is None else chip(change, lambda value: number(value, metric.decimals), of)
    return f'<td class="{kind}" data-label="{escape(label)}">{_value(figures, metric)}{below}</td>'


def _value(figures: Mapping[str, Any], metric: Metric) -> str:
    shown, error = number(figures.get(metric.key), metric.decimals), figures.get(f"{metric.key}_se")
    if shown == "–":
        return '<span class="absent">–</span>'
    spread = "" if error is None else f"<small> ± {number(error, metric.decimals)}</small>"
    return f'<span class="value">{shown}{spread}</span>'


def _sentences(found: Changes, still: Mapping[str, Difference], last: str) -> str:
    """One line for each comparison: the metrics that are better and those that are worse."""
    stages = list(found)
    lines = []
    for stage in stages:
        lines.append(_line(f"{stage} against the stage before", found[stage]))
    if still:
        lines.append(_line(f"{last} against a video in which nothing moves", still))
    return f'<ul class="verdicts">{"".join(lines)}</ul>' if lines else ""


def _line(title: str, change: Mapping[str, Difference]) -> str:
    parts = []
    shown = {metric.key: change[metric.key].verdict for metric in METRICS if metric.key in change}
    for verdict, words in (("better", "▲ better in"), ("worse", "▼ worse in")):
        names = [name for name, one in shown.items() if one == verdict]
        if names:
            parts.append(f'<span class="{verdict}">{words} {", ".join(names)}</span>')
    rest = len(shown) - sum(one in ("better", "worse") for one in shown.values())
    if rest:
        parts.append(f'<span class="same">{rest} of {len(shown)} show no difference</span>')
    return f"<li><b>{escape(title)}</b> {'; '.join(parts)}</li>"
