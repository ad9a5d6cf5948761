"""Training curves as small inline SVG panels: raw and smoothed line, an optional band, labelled axes."""

import math
from html import escape

import numpy as np

WIDTH, HEIGHT = 380, 216
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 10, 26, 38


def panel(
    title: str,
    steps: np.ndarray,
    values: np.ndarray,
    *,
    unit: str,
    band: np.ndarray | None = None,
) -> str:
    """Draws one quantity over the steps; returns an <svg> element.

    The vertical axis is logarithmic if the values are positive, span more than a factor of 30 and have no band.

    title: above the panel.
    steps, values: float [N >= 1], finite.
    unit: label of the vertical axis.
    band: float [N], drawn as values ± band.
    """
    low, high = float(values.min()), float(values.max())
    logarithmic = band is None and low > 0 and high / low > 30
    if band is not None:
        low, high = float((values - band).min()), float((values + band).max())
    if logarithmic:
        low, high = math.log10(low), math.log10(high)
    if high - low < 1e-12 * max(abs(high), 1e-300) or high == low:
        margin = 0.1 * abs(high) or 1.0
        low, high = low - margin, high + margin
    margin = 0.05 * (high - low)
    low, high = low - margin, high + margin
    first, last = float(steps[0]), float(steps[-1])
    if first == last:
        first, last = first - 1, last + 1

    def x_of(step: np.ndarray | float) -> np.ndarray:
        return _LEFT + (np.asarray(step) - first) / (last - first) * (WIDTH - _LEFT - _RIGHT)

    def y_of(value: np.ndarray | float) -> np.ndarray:
        scaled = np.log10(value) if logarithmic else np.asarray(value)
        return HEIGHT - _BOTTOM - (scaled - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    parts = [f'<text class="title" x="{_LEFT}" y="15">{escape(title)}</text>']
    for tick in _log_ticks(low, high) if logarithmic else ticks(low, high, 5):
        y = float(y_of(tick))
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in ticks(first, last, 6):
        x = float(x_of(tick))
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 14}" text-anchor="middle">{number(tick)}</text>')
    middle = (_TOP + HEIGHT - _BOTTOM) / 2
    parts.append(f'<text x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">step</text>')
    parts.append(
        f'<text transform="translate(11 {middle}) rotate(-90)" text-anchor="middle">{escape(unit)}'
        f"{' (log)' if logarithmic else ''}</text>"
    )
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{HEIGHT - _BOTTOM}H{WIDTH - _RIGHT}"/>')
    if band is not None:
        upper = _points(x_of(steps), y_of(values + band))
        lower = _points(x_of(steps[::-1]), y_of((values - band)[::-1]))
        parts.append(f'<polygon class="band" points="{upper} {lower}"/>')
    parts.append(f'<polyline class="raw" points="{_points(x_of(steps), y_of(values))}"/>')
    smooth = smoothed(np.log10(values) if logarithmic else values)
    smooth = 10**smooth if logarithmic else smooth
    parts.append(f'<polyline class="smooth" points="{_points(x_of(steps), y_of(smooth))}"/>')
    label = escape(f"{title} over the steps", quote=True)
    body = "".join(parts)
    return f'<svg class="panel" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{body}</svg>'


def smoothed(values: np.ndarray) -> np.ndarray:
    """Centred moving mean over a fifteenth of the points, over fewer points near both ends."""
    half = len(values) // 30
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    start, stop = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (total[stop] - total[start]) / (stop - start)


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round, evenly spaced numbers from low to high: `count` intervals or fewer."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    mantissas = (1,) if high - low > 2.5 else (1, 3)
    candidates = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in mantissas]
    return [tick for tick in candidates if low <= math.log10(tick) <= high]


def number(value: float) -> str:
    """A number as an axis label: at most four digits."""
    return f"{value:.4g}".replace("e-0", "e-").replace("-", "−")
