"""Heat that flows faster than in reality: how a caption states it."""

from math import floor, log10


def in_words(faster: float) -> str:
    """The end of a caption: by which factor, to two digits, the time of heat runs faster than in reality."""
    digits = max(0, floor(log10(faster)) - 1)
    return f"; for heat, time goes {round(faster / 10**digits) * 10**digits:,} times faster"
