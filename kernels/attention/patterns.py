"""Which video tokens a query sees: the patterns.

Video tokens are the cells of a grid (T, H, W) in row-major order: cell (t, h, w) is token (t * H + h) * W + w. A
pattern is a class that says what a query sees (`sees`), how many keys that is, and, where they form rows, which rows;
backends and kernels ask it for nothing else (docs/add-a-kernel.md, "An attention pattern").
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor

Grid = tuple[int, int, int]
Text = tuple[int, Literal["first", "last"]]
Cells = tuple[Tensor, Tensor, Tensor]  # integer coordinates t, h, w, broadcastable against each other

PATTERNS: "dict[str, type[Pattern]]" = {}  # by name: how an operator, which takes plain numbers, finds the class


class Rows(NamedTuple):
    """`number` rows of `length` tokens: token i of row r is first + r * row_step + i * token_step of the sequence."""

    number: int
    length: int
    row_step: int = 0
    token_step: int = 1
    causal: bool = False  # token i sees the tokens 0 to i of its row, else all of them
    first: int = 0


class Pattern(ABC):
    """Which cells of the video a query of the video sees. Subclasses are frozen dataclasses, each with its `name`."""

    name: ClassVar[str]
    crosses: ClassVar[bool] = False  # without text it needs no grid, and queries and keys may differ in number

    def __init_subclass__(cls) -> None:
        PATTERNS[cls.name] = cls

    @abstractmethod
    def sees(self, grid: Grid, query: Cells, key: Cells) -> Tensor:
        """Whether each query cell sees each key cell: bool, in a shape that broadcasts to the cells'."""

    @property
    def sees_all(self) -> bool:
        """Whether every query sees every key, text included, whatever the grid."""
        return False

    @abstractmethod
    def keys_per_query(self, grid: Grid) -> int:
        """Cells that a query sees (the most, where queries differ)."""

    def pairs(self, grid: Grid) -> int:
        """Pairs of a query cell and a key cell that it sees.

        To be overridden where keys form no rows and queries see different numbers of them.
        """
        rows = self.rows(grid)
        if rows is None:
            return grid[0] * grid[1] * grid[2] * self.keys_per_query(grid)
        return rows.number * (rows.length * (rows.length + 1) // 2 if rows.causal else rows.length**2)

    def check(self, grid: Grid) -> None:  # noqa: B027 (most patterns fit every grid)
        """Raises ValueError where the pattern does not fit into the grid."""

    def rows(self, grid: Grid) -> Rows | None:
        """The rows of cells inside which attention is dense or causal; None where keys form no rows.

        Every cell is in exactly one row. Rows stand one after the other (row_step is their length, token_step 1) or
        interleaved (row_step 1, token_step their number). Backends of dense attention compute each row as a sequence.
        """
        return None

    @property
    def numbers(self) -> list[int]:
        """The pattern's parameters as an operator takes them."""
        return []

    @classmethod
    def from_numbers(cls, numbers: list[int]) -> Self:
        """The pattern of these `numbers`."""
        return cls(*numbers)


def _check_parameters(pattern: Pattern, kind: type, *parameters: object) -> None:
    for parameter in parameters:
        fits = isinstance(parameter, bool) if kind is bool else hasattr(parameter, "__index__")  # also torch's symbols
        if not fits:
            raise ValueError(f"{pattern}: expected {kind.__name__}, got {parameter!r}")


@dataclass(frozen=True)
class Full(Pattern):
    """Every query sees every key; queries and keys may differ in number.

    `causal`: query i sees the keys 0 to i, aligned at the top left where they differ in number, as torch's `is_causal`.
    With text, which then needs the grid, that holds among the video's tokens, in row-major order.
    """

    name = "full"
    crosses = True
    causal: bool = False

    def __post_init__(self) -> None:
        _check_parameters(self, bool, self.causal)

    @property
    def sees_all(self) -> bool:
        return not self.causal

    def sees(self, grid: Grid, query: Cells, key: Cells) -> Tensor:
        if not self.causal:
            return torch.ones((), dtype=torch.bool, device=query[0].device)
        after, before = ((t * grid[1] + h) * grid[2] + w for t, h, w in (query, key))
        return before <= after

    def keys_per_query(self, grid: Grid) -> int:
        return grid[0] * grid[1] * grid[2]

    def rows(self, grid: Grid) -> Rows:
        cells = grid[0] * grid[1] * grid[2]
        return Rows(1, cells, row_step=cells, causal=self.causal)

    @property
    def numbers(self) -> list[int]:
        return [int(self.causal)]

    @classmethod
    def from_numbers(cls, numbers: list[int]) -> Self:
        return cls(causal=bool(numbers[0]))


@dataclass(frozen=True)
class Spatial(Pattern):
    """A query sees the cells of its own frame."""

    name = "spatial"

    def sees(self, grid: Grid, query: Cells, key: Cells) -> Tensor:
        return query[0] == key[0]

    def keys_per_query(self, grid: Grid) -> int:
        return grid[1] * grid[2]

    def rows(self, grid: Grid) -> Rows:
        cells = grid[1] * grid[2]
        return Rows(grid[0], cells, row_step=cells)


@dataclass(frozen=True)
class Temporal(Pattern):
    """A query sees its own place in every frame; `causal`: in no later frame."""

    name = "temporal"
    causal: bool = False

    def __post_init__(self) -> None:
        _check_parameters(self, bool, self.causal)

    def sees(self, grid: Grid, query: Cells, key: Cells) -> Tensor:
        same = (query[1] == key[1]) & (query[2] == key[2])
        return same & (key[0] <= query[0]) if self.causal else same

    def keys_per_query(self, grid: Grid) -> int:
        return grid[0]

    def rows(self, grid: Grid) -> Rows:
        cells = grid[1] * grid[2]
        return Rows(cells, grid[0], row_step=1, token_step=cells, causal=self.causal)

    @property
    def numbers(self) -> list[int]:
        return [int(self.causal)]

    @classmethod
    def from_numbers(cls, numbers: list[int]) -> Self:
        return cls(causal=bool(numbers[0]))


@dataclass(frozen=True)
class Window(Pattern):
    """A query sees exactly t * h * w cells around it, shifted inwards at the borders of the grid.

    Along an axis of n cells a window of w starts at clamp(i - w // 2, 0, n - w); w > n is refused.
    """

    name = "window"
    t: int
    h: int
    w: int

    def __post_init__(self) -> None:
        _check_parameters(self, int, self.t, self.h, self.w)

    def check(self, grid: Grid) -> None:
        for axis, size, window in zip("thw", grid, self.numbers, strict=True):
            if not 1 <= window <= size:
                raise ValueError(f"{self}: {axis} must be between 1 and the grid's {size}")

    def sees(self, grid: Grid, query: Cells, key: Cells) -> Tensor:
        time, height, width = (
            self._along(*axis) for axis in zip(grid, self.numbers, query, key, strict=True)
        )
        return time & height & width

    @staticmethod
    def _along(size: int, window: int, query: Tensor, key: Tensor) -> Tensor:
        start = (query - window // 2).clamp(0, size - window)
        return (key >= start) & (key < start + window)

    def keys_per_query(self, grid: Grid) -> int:
        return self.t * self.h * self.w

    @property
    def numbers(self) -> list[int]:
        return [self.t, self.h, self.w]


class Layout(NamedTuple):
    """Where video and text stand in a sequence, in tokens."""

    cells: int
    text: int
    video_start: int
    text_start: int


def layout(grid: Grid, text: Text | None) -> Layout:
    """The layout of a video with its text."""
    cells = grid[0] * grid[1] * grid[2]
    number = text[0] if text else 0
    video_start = number if text and text[1] == "first" else 0
    return Layout(cells, number, video_start, 0 if video_start else cells)


def tokens(grid: Grid, text: Text | None) -> int:
    """Tokens of the sequence that a video and its text make."""
    return grid[0] * grid[1] * grid[2] + (text[0] if text else 0)


def check_pattern(pattern: Pattern, grid: Grid | None, text: Text | None, queries: int, keys: int) -> None:
    """Raises ValueError if this pattern cannot be laid over so many queries and keys."""
    if not isinstance(pattern, Pattern):
        raise ValueError(f"pattern: expected an instance such as Full() or Window(3, 5, 5), got {pattern!r}")
    if text is not None and (len(text) != 2 or text[1] not in ("first", "last") or text[0] < 0):
        raise ValueError(f'text: expected (number of tokens, "first" or "last"), got {text}')
    if grid is not None and (len(grid) != 3 or min(grid) < 1):
        raise ValueError(f"grid: expected three positive sizes (T, H, W), got {grid}")
    number = text[0] if text else 0
    if pattern.crosses and (pattern.sees_all or not number):
        if number > queries:
            raise ValueError(f"text: {number} tokens are more than the {queries} queries")
        if grid is not None and queries == keys != tokens(grid, text):
            raise ValueError(_unequal(grid, number, queries, keys))
        return
    if grid is None:
        raise ValueError(f"grid: {pattern}{' with text' if pattern.crosses else ''} needs the video's (T, H, W)")
    if queries != tokens(grid, text) or keys != queries:
        raise ValueError(_unequal(grid, number, queries, keys))
    pattern.check(grid)


def _unequal(grid: Grid, text: int, queries: int, keys: int) -> str:
    return (
        f"grid {grid} with {text} text tokens makes a sequence of {tokens(grid, (text, 'last'))}, "
        f"got {queries} queries and {keys} keys"
    )


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
    cells, number, start, _ = layout(grid, text)
    count = cells + number
    check_pattern(pattern, grid, text, count, count)
    mask = torch.ones(count, count, dtype=torch.bool, device=device)
    # One dimension per coordinate of the query, then of the key: comparisons along an axis stay as small as the axis.
    axes = [torch.arange(size, device=device) for size in (*grid, *grid)]
    t, h, w, key_t, key_h, key_w = (
        axis.view([-1 if d == place else 1 for d in range(6)]) for place, axis in enumerate(axes)
    )
    seen = pattern.sees(grid, (t, h, w), (key_t, key_h, key_w)).expand(*grid, *grid)
    mask[start : start + cells, start : start + cells] = seen.reshape(cells, cells)
    return mask
