"""Metrics by category as bars: one panel a metric, a group of bars for each category, a bar for each stage."""

from collections.abc import Mapping
from html import escape
from typing import Any

from phys4d.evaluate.intervals import Interval, bootstrap
from phys4d.report.artefacts import Artefacts
from phys4d.report.tables import METRICS, Metric, number

WIDTH, _LEFT, _RIGHT, _BAR, _GAP, _TOP = 420, 96, 66, 13, 9, 26


def category_bars(run: Artefacts) -> str:
    """Panels of every metric by category, or by family where there is one category only, with a legend."""
    names = next((table["names"] for table in run.tables.values()), None)
    if names is None:
        return "<p>evaluation/&lt;stage&gt;.json is absent: nothing is known of single scenes.</p>"
    group = next((kind for kind in ("category", "family") if len(_groups(names, kind)) > 1), None)
    if group is None:
        return "<p>All scenes are of one category and one family.</p>"
    found = _groups(names, group)
    panels = "".join(_panel(metric, found, run.tables) for metric in METRICS)
    keys = "".join(f'<span class="key"><i class="swatch s{i}"></i>{escape(s)}</span>' for i, s in enumerate(run.tables))
    counts = ", ".join(f"{escape(name)} {len(scenes)}" for name, scenes in found.items())
    text = (
        f"Means over the scenes of each {group} ({counts}); lines are 95 % bootstrap intervals over scenes. "
        "Intervals of two bars may overlap where the paired change in the table above is clear."
    )
    return f'<p>{text}</p><p class="legend">{keys}</p><div class="panels">{panels}</div>'


def _groups(names: Mapping[str, list[str | None]], kind: str) -> dict[str, list[int]]:
    """Group -> numbers of its scenes; scenes that were left out are in none."""
    found: dict[str, list[int]] = {}
    for scene, name in enumerate(names[kind]):
        if name is not None:
            found.setdefault(name or "not stated", []).append(scene)
    return dict(sorted(found.items()))


def _panel(metric: Metric, groups: Mapping[str, list[int]], tables: Mapping[str, Mapping[str, Any]]) -> str:
    means: dict[str, list[Interval]] = {}
    for name, scenes in groups.items():
        lists = [table["scenes"].get(metric.key, []) for table in tables.values()]
        means[name] = [bootstrap([v for s in scenes if s < len(of) and (v := of[s]) is not None]) for of in lists]
    every = [value for some in means.values() for one in some for value in one[:3] if value == value]
    if not every:
        return ""
    low, high = min(0.0, *every), max(0.0, *every)
    scale = (WIDTH - _LEFT - _RIGHT) / ((high - low) or 1.0)

    def x(value: float) -> float:
        return _LEFT + (value - low) * scale

    arrow = "↑" if metric.more_is_better else "↓"
    parts = [f'<text class="title" x="4" y="15">{escape(metric.key)} {arrow} [{escape(metric.unit)}]</text>']
    y = float(_TOP)
    for name, some in means.items():
        middle = y + len(some) * _BAR / 2 + 4
        label = f"{name[:14]}…" if len(name) > 15 else name
        parts.append(f'<text x="{_LEFT - 6}" y="{middle:.1f}" text-anchor="end">{escape(label)}</text>')
        for i, one in enumerate(some):
            if one.mean == one.mean:
                parts.append(_bar(one, i, y, x, metric))
            y += _BAR
        y += _GAP
    parts.append(f'<path class="axis" d="M{x(0):.1f} {_TOP - 4}V{y - _GAP + 4:.1f}"/>')
    title = escape(f"{metric.key} by group and stage", quote=True)
    return f'<svg class="panel" viewBox="0 0 {WIDTH} {y:.0f}" role="img" aria-label="{title}">{"".join(parts)}</svg>'


def _bar(one: Interval, stage: int, y: float, x: Any, metric: Metric) -> str:
    left, right = sorted((x(0), x(one.mean)))
    end = max(right, x(one.high) if one.high == one.high else right)
    place = f'x="{left:.1f}" y="{y + 1:.1f}" width="{max(right - left, 1):.1f}" height="{_BAR - 2}"'
    bar = f'<rect class="s{stage}" {place}/>'
    line = ""
    if one.low == one.low:
        line = f'<path class="span" d="M{x(one.low):.1f} {y + _BAR / 2:.1f}H{x(one.high):.1f}"/>'
    return f'{bar}{line}<text x="{end + 4:.1f}" y="{y + _BAR - 3:.1f}">{number(one.mean, metric.decimals)}</text>'
