"""The plot of a benchmark's result, an SVG: per case the time of every peer, forward on the left, other part right.

Bars start at zero and end at the median; the whisker spans the 20th to the 80th percentile. The fastest peer is on top.
The bar of a peer that takes more than `CUT` times as long as the fastest is cut, and its number shows the time. The
font has letters of equal width and columns are as wide as their longest text, so that texts never overlap.
"""

import textwrap
from collections.abc import Iterator
from html import escape
from typing import Any

from phys4d.benchmarks import results
from phys4d.report.curves import number, ticks

WIDTH = 1000
CUT = 8.0
OURS = {"triton": "ours", "ours": "ours", "auto": "what `attention` chooses by itself"}
_LETTER = 7.0  # pixels of a letter at 11 px, rounded up
_LINE, _BAR, _EDGE, _GAP = 17, 10, 16, 28
_STYLE = """
text { font: 11px 'DejaVu Sans Mono', Menlo, Consolas, monospace; fill: #333; }
.title { font-size: 14px; font-weight: bold; } .case { font-size: 12px; font-weight: bold; } .quiet { fill: #777; }
.peer { fill: #b9c2cc; } .ours { fill: #d9541e; } .auto { fill: #f3b27a; }
.whisker { stroke: #222; fill: none; } .grid { stroke: #e4e4e4; } .axis { stroke: #999; } .cut { stroke: #fff; }
.floor { stroke: #1b6fb5; stroke-width: 1.5; stroke-dasharray: 4 3; }
.same { fill: #2c8a4b; stroke: #2c8a4b; } .differs { fill: #fff; stroke: #999; }
"""


def plot(result: dict[str, Any]) -> str:
    """The SVG of a result of `run.write`, with kind, device, dtype, rows and provenance."""
    provenance, cpu = result["provenance"], result["device"] == "cpu"
    machine = results.machine(provenance, result["device"])
    heading = f"{result['kind']}: forward and backward in {result['dtype']} on {machine}"
    second = f"triton {provenance['triton']}, {results.version(provenance)}"
    second += ". Small shapes, which say nothing of any GPU." if cpu else ""
    parts = [_text(_EDGE, 24, heading, "title"), _text(_EDGE, 42, second, "quiet")]
    legend, y = _legend(62, any(row["backend"] == "auto" for row in result["rows"]))
    parts += legend
    for name in dict.fromkeys(row["case"] for row in result["rows"]):
        drawn, y = _case([row for row in result["rows"] if row["case"] == name], y)
        parts += drawn
    label = escape(heading, quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img" '
        f'aria-label="{label}">\n<style>{_STYLE}</style>\n<rect width="{WIDTH}" height="{y}" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _legend(y: float, auto: bool) -> tuple[list[str], float]:
    """The legend, with "auto" only where it was measured, and the y coordinate below it."""
    entries = [
        ("ours", OURS["ours"]), ("auto", OURS["auto"]), ("peer", "peers"), ("same", "two backward runs are bit-equal"),
        ("differs", "they differ"), ("whisker", "20th to 80th percentile"), ("floor", "floor, where it is known"),
    ]  # fmt: skip
    parts, x = [], float(_EDGE)
    for mark, words in entries:
        if mark == "auto" and not auto:
            continue
        width = 26 + _LETTER * len(words)
        if x + width > WIDTH - _EDGE:
            x, y = float(_EDGE), y + _LINE
        if mark in ("same", "differs"):
            parts.append(_dot(x + 14, y, mark))
        elif mark == "whisker":
            parts.append(_whisker(x + 2, x + 18, y, True))
        elif mark == "floor":
            parts.append(f'<line class="floor" x1="{x}" x2="{x + 20}" y1="{y}" y2="{y}"/>')
        else:
            parts.append(f'<rect class="{mark}" x="{x}" y="{y - _BAR / 2}" width="20" height="{_BAR}"/>')
        parts.append(_text(x + 26, y + 4, words))
        x += width + 14
    return parts, y + _LINE


def _case(rows: list[dict[str, Any]], y: float) -> tuple[list[str], float]:
    """One case: its two panels side by side, and a line that names the peers that could not compute it."""
    measured = [row for row in rows if "refused" not in row]
    parts = [f'<line class="grid" x1="{_EDGE}" x2="{WIDTH - _EDGE}" y1="{y}" y2="{y}"/>']
    parts.append(_text(_EDGE, y + 20, rows[0]["case"], "case"))
    y += 28
    width = (WIDTH - 2 * _EDGE - _GAP) / 2
    below = y
    for column, part in enumerate(sorted({row["part"] for row in measured}, key=lambda part: part != "forward")):
        panel = sorted((row for row in measured if row["part"] == part), key=lambda row: row["ms"])
        if panel:
            drawn, end = _panel(part, panel, _EDGE + column * (width + _GAP), y, width)
            parts += drawn
            below = max(below, end)
    refused = ", ".join(dict.fromkeys(row["backend"] for row in rows if "refused" in row))
    if refused:
        words = f"not measured, for the reasons in the table: {refused}"
        for line in textwrap.wrap(words, int((WIDTH - 2 * _EDGE) / _LETTER), break_on_hyphens=False):
            below += _LINE
            parts.append(_text(_EDGE, below - 4, line, "quiet"))
    return parts, below + 8


def _panel(part: str, rows: list[dict[str, Any]], left: float, top: float, width: float) -> tuple[list[str], float]:
    """One part of a case, the fastest first: names, bars, numbers, and the axis below them."""
    fastest, slowest = rows[0]["ms"], max(row["ms_p80"] for row in rows)
    end = min(slowest, CUT * fastest)
    unit, factor = ("us", 1e3) if end < 2 else ("ms", 1.0) if end < 2e3 else ("s", 1e-3)
    numbers = [f"{_short(row['ms'] * factor)} {unit}" for row in rows]
    numbers = [n + (f" {row['share']:.0%}" if row["share"] else "") for n, row in zip(numbers, rows, strict=True)]
    begin = left + 18 + _LETTER * max(8, *(len(row["backend"]) for row in rows))  # 8: "time, us"
    stop = left + width - 10 - _LETTER * max(map(len, numbers))

    def x_of(ms: float) -> float:
        return begin + min(ms, end) / end * (stop - begin)

    floor = rows[0]["floor_ms"]
    words = part + (f", floor {_short(floor * factor)} {unit} and share of it reached" if floor else "")
    bottom = top + _LINE * (1 + len(rows))
    parts = [_text(left, top + 12, words, "quiet")]
    for tick in ticks(0, end * factor, 4):
        x = x_of(tick / factor)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top + _LINE}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 13, number(tick), "quiet", "middle"))
    parts.append(_text(begin - 2 * _LETTER, bottom + 13, f"time, {unit}", "quiet", "end"))
    for index, (row, label) in enumerate(zip(rows, numbers, strict=True)):
        y = top + _LINE * (index + 1.5)
        parts += _bar(row, label, y, left, begin, stop, x_of(row["ms"]), row["ms"] > end)
        if row["ms_p20"] < end:
            parts.append(_whisker(x_of(row["ms_p20"]), x_of(row["ms_p80"]), y, row["ms_p80"] <= end))
    parts.append(f'<line class="axis" x1="{begin:.1f}" x2="{begin:.1f}" y1="{top + _LINE}" y2="{bottom}"/>')
    if floor:
        x = x_of(floor)
        parts.append(f'<line class="floor" x1="{x:.1f}" x2="{x:.1f}" y1="{top + _LINE}" y2="{bottom}"/>')
    return parts, bottom + _LINE


def _bar(
    row: dict[str, Any], label: str, y: float, left: float, begin: float, stop: float, x: float, cut: bool
) -> Iterator[str]:
    """The row of a peer: the mark of determinism, its name, its bar and its number."""
    name = row["backend"]
    mark = {"auto": "auto"}.get(name, "ours" if name in OURS or name.startswith("ours,") else "peer")
    exact = f"{name}: {row['ms']:.4g} ms ({row['ms_p20']:.4g} to {row['ms_p80']:.4g})"
    yield _dot(left + 5, y, "same" if row["deterministic"] else "differs")
    yield _text(left + 14, y + 4, name)
    yield (
        f'<rect class="{mark}" x="{begin:.1f}" y="{y - _BAR / 2}" width="{x - begin:.1f}" height="{_BAR}">'
        f"<title>{escape(exact)}</title></rect>"
    )
    if cut:
        for shift in (14, 18):
            yield (
                f'<line class="cut" stroke-width="2" x1="{stop - shift:.1f}" x2="{stop - shift + 4:.1f}" '
                f'y1="{y + _BAR / 2}" y2="{y - _BAR / 2}"/>'
            )
    yield _text(stop + 10, y + 4, label)


def _whisker(low: float, high: float, y: float, closed: bool) -> str:
    cap = f"M{high:.1f} {y - 3}v6" if closed else ""
    return f'<path class="whisker" d="M{low:.1f} {y - 3}v6M{low:.1f} {y}H{high:.1f}{cap}"/>'


def _dot(x: float, y: float, mark: str) -> str:
    return f'<circle class="{mark}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
