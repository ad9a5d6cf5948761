"""A paired difference as a coloured chip: better or worse in colour, sign and words, with its interval about zero."""

from collections.abc import Callable
from html import escape

from phys4d.evaluate.compare import LEAST_CLIPS, Difference

_WORDS = {"better": "▲ better", "worse": "▼ worse", "equal": "= equal", "no difference shown": "≈ no difference shown"}


def chip(change: Difference, number: Callable[[float], str], of: str = "") -> str:
    """HTML of a difference.

    change: of `evaluate.compare`. number: a value as text. of: plain text that begins the words.
    """
    kind = change.verdict if change.verdict in ("better", "worse") else "same"
    words = escape(of) + _WORDS.get(change.verdict, f"under {LEAST_CLIPS} clips")
    if change.verdict == "equal":
        return f'<span class="chip same">{words}</span>'
    sign = "+" if change.mean > 0 else ""
    span = f"{sign}{number(change.mean)} <small>[{number(change.low)}, {number(change.high)}]</small>"
    return f'<span class="chip {kind}">{words}<span class="change">{span}</span>{_whisker(change)}</span>'


def _whisker(change: Difference) -> str:
    """The interval of a difference as a line about zero; nothing for one clip, which has none."""
    reach = max(abs(change.low), abs(change.high)) or 1.0
    if change.low != change.low or change.high != change.high:
        return ""

    def x(value: float) -> float:
        return 50 + 46 * value / reach

    return (
        '<svg class="whisker" viewBox="0 0 100 10" aria-hidden="true"><path class="zero" d="M50 0V10"/>'
        f'<path class="span" d="M{x(change.low):.1f} 5H{x(change.high):.1f}"/>'
        f'<circle cx="{x(change.mean):.1f}" cy="5" r="3"/></svg>'
    )
