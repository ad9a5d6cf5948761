"""Which video token sees which: the patterns, and the boolean mask that defines each of them.

Video tokens are the cells of a grid (T, H, W) in row-major order, cell (t, h, w) at (t * H + h) * W + w.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Grid = tuple[int, int, int]
Text = tuple[int, Literal["first", "last"]]


@dataclass(frozen=True)
class Full:
    """Every query sees every key; queries and keys may differ in number."""


@dataclass(frozen=True)
class Spatial:
    """A query sees the cells of its own frame."""


@dataclass(frozen=True)
class Temporal:
    """A query sees its own place in every frame; `causal`: in no later frame."""

    causal: bool = False


@dataclass(frozen=True)
class Window:
    """A query sees exactly t * h * w cells around it, shifted inwards at the borders of the grid.

    Along an axis of n cells a window of w starts at clamp(i - w // 2, 0, n - w); w > n is refused.
    """

    t: int
    h: int
    w: int


Pattern = Full | Spatial | Temporal | Window


def check_pattern(pattern: Pattern, grid: Grid | None, text: Text | None, queries: int, keys: int) -> None:
    """Raises ValueError if this pattern cannot be laid over so many queries and keys."""
    if text is not None and (text[1] not in ("first", "last") or text[0] < 0):
        raise ValueError(f'text: expected (number of tokens, "first" or "last"), got {text}')
    if isinstance(pattern, Full):
        return
    if grid is None:
        raise ValueError(f"grid: {pattern} needs the video's (T, H, W)")
    if len(grid) != 3 or min(grid) < 1:
        raise ValueError(f"grid: expected three positive sizes (T, H, W), got {grid}")
    expected = grid[0] * grid[1] * grid[2] + (text[0] if text else 0)
    if queries != expected or keys != expected:
        raise ValueError(
            f"grid {grid} with {text[0] if text else 0} text tokens makes a sequence of {expected}, "
            f"got {queries} queries and {keys} keys"
        )
    if isinstance(pattern, Window):
        for axis, size, window in zip("thw", grid, (pattern.t, pattern.h, pattern.w), strict=True):
            if not 1 <= window <= size:
                raise ValueError(f"{pattern}: {axis} must be between 1 and the grid's {size}")


def _near(size: int, window: int, device: torch.device | str) -> Tensor:
    """Which positions of an axis are inside each position's window: bool [size, size]."""
    position = torch.arange(size, device=device)
    start = (position - window // 2).clamp(0, size - window)[:, None]
    return (position >= start) & (position < start + window)


def _cells(pattern: Pattern, grid: Grid, device: torch.device | str) -> Tensor:
    """Which cell sees which: bool [T * H * W, T * H * W]."""
    sizes: tuple[int, int, int] = grid
    if isinstance(pattern, Full):
        axes = [torch.ones(n, n, dtype=torch.bool, device=device) for n in sizes]
    elif isinstance(pattern, Window):
        windows = (pattern.t, pattern.h, pattern.w)
        axes = [_near(n, window, device) for n, window in zip(sizes, windows, strict=True)]
    else:
        same = [torch.eye(n, dtype=torch.bool, device=device) for n in sizes]
        every = [torch.ones(n, n, dtype=torch.bool, device=device) for n in sizes]
        if isinstance(pattern, Spatial):
            axes = [same[0], every[1], every[2]]
        else:
            axes = [every[0].tril() if pattern.causal else every[0], same[1], same[2]]
    time, height, width = axes
    cells = (
        time[:, None, None, :, None, None]
        & height[None, :, None, None, :, None]
        & width[None, None, :, None, None, :]
    )
    count = grid[0] * grid[1] * grid[2]
    return cells.reshape(count, count)


def allowed(
    pattern: Pattern, grid: Grid, text: Text | None = None, *, device: torch.device | str = "cpu"
) -> Tensor:
    """Which query sees which key: bool [S, S], S = T * H * W + text tokens; rows are queries.

    Text queries see every key; video queries see the text and what their pattern lets them see.

    Args:
        pattern: the pattern over the video's cells.
        grid: (T, H, W).
        text: (n, "first" | "last"): n text tokens before or after the video; None for none.
        device: where the mask is made.

    Raises:
        ValueError: no such grid or text, or a window larger than the grid.
    """
    count = grid[0] * grid[1] * grid[2] + (text[0] if text else 0)
    check_pattern(pattern, grid, text, count, count)
    mask = torch.ones(count, count, dtype=torch.bool, device=device)
    first = text[0] if text and text[1] == "first" else 0
    video = slice(first, first + grid[0] * grid[1] * grid[2])
    mask[video, video] = _cells(pattern, grid, device)
    return mask
