"""The plot of scores, a bar for each folder, highest first, as an SVG."""

from collections.abc import Mapping
from html import escape

_WIDTH, _LEFT, _BAR, _ROW, _TOP = 640, 180, 16, 26, 44
_STYLE = "text { font: 12px sans-serif; fill: #333; } .bar { fill: #1e88e5; } .best { stroke: #888; }"


def bar_plot(scores: Mapping[str, float], variant: str) -> str:
    """The SVG; its dashed line at 100 is what two takes of the same event score against each other.

    scores: name -> per cent. variant: of the benchmark, for the title.
    """
    ordered = sorted(scores.items(), key=lambda item: -item[1])
    scale = (_WIDTH - _LEFT - 60) / 100
    height = _TOP + _ROW * len(ordered) + 12
    best = _LEFT + 100 * scale
    parts = [
        f'<text x="12" y="18">Physics-IQ {escape(variant)} score in per cent, higher is better</text>',
        f'<path class="best" d="M{best:.1f} {_TOP - 8}V{height - 8}" stroke-dasharray="5 4"/>',
        f'<text x="{best:.1f}" y="{_TOP - 12}" text-anchor="middle">physical variance</text>',
    ]
    for index, (name, score) in enumerate(ordered):
        y = _TOP + _ROW * index
        parts += [
            f'<text x="{_LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(name[-28:])}</text>',
            f'<rect class="bar" x="{_LEFT}" y="{y}" width="{score * scale:.1f}" height="{_BAR}"/>',
            f'<text x="{_LEFT + score * scale + 6:.1f}" y="{y + 13}">{score:.1f}</text>',
        ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="Physics-IQ scores">\n<style>{_STYLE}</style>\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
