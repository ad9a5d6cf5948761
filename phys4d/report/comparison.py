"""`phys4d evaluate --compare` as a page: every model against the first, figure by figure."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from phys4d.evaluate.compare import HIGHER, Difference
from phys4d.evaluate.consistency.figures import FIGURES
from phys4d.report.bundle import page
from phys4d.report.chips import chip
from phys4d.report.tables import METRICS

_MEANING = {m.key: (m.meaning, m.unit) for m in METRICS} | {f.name: (f.meaning, f.unit) for f in FIGURES}


def comparison_page(found: Mapping[str, Any]) -> str:
    """The HTML of a comparison, one file without network access.

    found: of `evaluate.compare.compare`.
    """
    first, others = found["first"], found["others"]
    changes = {name: {key: _difference(one) for key, one in of["figures"].items()} for name, of in others.items()}
    parts = [_opening(first, changes)]
    for name, of in others.items():
        lines = "\n".join(of["words"])
        summary = f"<summary>{escape(name)} against {escape(first)}, in words</summary>"
        parts.append(f"<details>{summary}<pre>{escape(lines)}</pre></details>")
    parts.append(_table(first, changes))
    title = f"phys4d: {', '.join(others)} against {first}"
    return page(title, f"<header><h1>{escape(title)}</h1></header><main><section>{''.join(parts)}</section></main>")


def _difference(one: Mapping[str, Any]) -> Difference:
    known = {key: math.nan if value is None else value for key, value in one.items()}
    return Difference(*(known[name] for name in Difference._fields))  # type: ignore[arg-type]


def _opening(first: str, changes: Mapping[str, Mapping[str, Difference]]) -> str:
    """What the page shows, and a line for each model."""
    lines = []
    for name, found in changes.items():
        verdicts = [one.verdict for one in found.values()]
        counts = [
            f'<span class="{kind}">{sign} {kind} in {sum(verdict == kind for verdict in verdicts)}</span>'
            for kind, sign in (("better", "▲"), ("worse", "▼"))
        ]
        rest = sum(verdict not in ("better", "worse") for verdict in verdicts)
        counts.append(f'<span class="same">{rest} of {len(found)} show no difference</span>')
        lines.append(f"<li><b>{escape(name)} against {escape(first)}</b> {'; '.join(counts)}</li>")
    clips = max(one.clips for found in changes.values() for one in found.values())
    text = (
        f"Differences are paired over the clips that both models have, {clips} at most, with 95 % bootstrap intervals "
        "in brackets and as lines about zero: green is better, red worse, grey shows no difference. Of twenty figures "
        "without a real difference about one would be coloured by chance."
    )
    return f'<p>{text}</p><ul class="verdicts">{"".join(lines)}</ul>'


def _table(first: str, changes: Mapping[str, Mapping[str, Difference]]) -> str:
    """A row for each figure; the first model's means, then each other's with its difference."""
    head = f'<th scope="col">{escape(first)}</th>'
    head += "".join(f'<th scope="col">{escape(name)}<small>against {escape(first)}</small></th>' for name in changes)
    rows = []
    for figure, higher in HIGHER.items():
        some = {name: found[figure] for name, found in changes.items() if figure in found}
        if not some:
            continue
        meaning, unit = _MEANING.get(figure, ("", ""))
        better = f"{'higher' if higher else 'lower'} is better"
        note = f"{meaning} [{unit}]; {better}" if meaning else better
        firsts = {_number(one.first) for one in some.values()}  # over the clips in common, which may differ
        cells = f'<td class="baseline" data-label="{escape(first)}">{" / ".join(sorted(firsts))}</td>'
        for name in changes:
            one = some.get(name)
            value = "–" if one is None else f'<span class="value">{_number(one.other)}</span>{chip(one, _number)}'
            cells += f'<td class="model" data-label="{escape(name)}">{value}</td>'
        title = f"{escape(figure)} {'↑' if higher else '↓'}<small>{escape(note)}</small>"
        rows.append(f'<tr><th scope="row">{title}</th>{cells}</tr>')
    body = f"<thead><tr><th>figure</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table class="glance">{body}</table></div>'


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "−") if math.isfinite(value) else "–"
