"""Tokens [B, S, C] in pieces that fit a cache, each with the rows of a modulation [R, C] that its tokens take.

A piece is small beside a cache of the last level, so that memory is passed over about once however many operators work
on it, and large enough that many threads are seldom made to wait for each other.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_NUMBERS = 1 << 18  # of a piece, for each thread
_ALONE = 1 << 15  # from how many numbers on the tokens of a row are worth a piece of their own


@dataclass(frozen=True)
class Alike:
    """Tokens begin..end of a clip that take the same row."""

    clip: int
    begin: int
    end: int
    row: int

    def of(self, tokens: Tensor) -> Tensor:
        """The piece of tokens [B, S, n]: [tokens, n]."""
        return tokens[self.clip, self.begin : self.end]

    def rows(self, table: Tensor) -> Tensor:
        """The piece of a table [R, C], [C]."""
        return table[self.row]

    def add(self, table: Tensor, values: Tensor) -> None:
        """Adds what `of` is like to the rows of its tokens."""
        table[self.row] += values.sum(0, dtype=table.dtype)

    def add_product(self, table: Tensor, values: Tensor, others: Tensor) -> None:
        """The same for values * others."""
        self.add(table, values * others)


@dataclass(frozen=True)
class Regular:
    """Rows first..last of each of some clips, each for `run` tokens, all of them; no other piece has these rows."""

    clips: slice
    first: int
    last: int
    run: int
    each: int  # rows of a clip

    def of(self, tokens: Tensor) -> Tensor:
        """The piece of tokens [B, S, n]: [clips, rows, run, n]."""
        return tokens[self.clips, self.first * self.run : self.last * self.run].unflatten(1, (-1, self.run))

    def rows(self, table: Tensor) -> Tensor:
        """The piece of a table [R, C], [clips, rows, 1, C]."""
        return self._part(table).unsqueeze(2)

    def add(self, table: Tensor, values: Tensor) -> None:
        """Writes the sums of what `of` is like over the tokens of each row."""
        if self.run > 1:
            torch.sum(values, 2, dtype=table.dtype, out=self._part(table))
        else:
            self._part(table).copy_(values.squeeze(2))

    def add_product(self, table: Tensor, values: Tensor, others: Tensor) -> None:
        """The same for values * others."""
        if self.run == 1 and values.dtype == others.dtype == table.dtype:
            torch.mul(values.squeeze(2), others.squeeze(2), out=self._part(table))
        else:
            self.add(table, values * others)

    def _part(self, table: Tensor) -> Tensor:
        return table.unflatten(0, (-1, self.each))[self.clips, self.first : self.last]


@dataclass(frozen=True)
class Scattered:
    """Tokens begin..end of a clip, the row of each in a tensor."""

    clip: int
    begin: int
    end: int
    index: Tensor

    def of(self, tokens: Tensor) -> Tensor:
        """The piece of tokens [B, S, n]: [tokens, n]."""
        return tokens[self.clip, self.begin : self.end]

    def rows(self, table: Tensor) -> Tensor:
        """The piece of a table [R, C], [tokens, C]."""
        return table[self.index]

    def add(self, table: Tensor, values: Tensor) -> None:
        """Adds what `of` is like to the rows of its tokens."""
        table.index_add_(0, self.index, values.to(table.dtype))

    def add_product(self, table: Tensor, values: Tensor, others: Tensor) -> None:
        """The same for values * others."""
        self.add(table, values * others)


Piece = Alike | Regular | Scattered


def pieces(like: Tensor, rows: int, index: Tensor | None) -> Iterator[Piece]:
    """Of tokens [B, S, C], which take `rows` rows by index [B, S], or each row as many, one after the other."""
    clips, count, width = like.shape
    longest = max(1, _NUMBERS * torch.get_num_threads() // width)
    if index is not None:
        yield from _by_index(index, longest, -(-_ALONE // width))
    elif regular(like, rows, index):
        yield from _regular(clips, rows // clips, count // (rows // clips), longest)
    else:
        run = clips * count // rows
        for clip in range(clips):
            begin = 0
            while begin < count:
                number = clip * count + begin
                end = min(count, begin + longest, begin + run - number % run)
                yield Alike(clip, begin, end, number // run)
                begin = end


def regular(like: Tensor, rows: int, index: Tensor | None) -> bool:
    """Whether all pieces are `Regular`, so that each row is written once."""
    clips, count, width = like.shape
    return index is None and rows % clips == 0 and clips * count // rows * width < _ALONE


def _regular(clips: int, each: int, run: int, longest: int) -> Iterator[Piece]:
    together = longest // (each * run)
    if together:
        for clip in range(0, clips, together):
            yield Regular(slice(clip, clip + together), 0, each, run, each)
        return
    step = max(1, longest // run)
    for clip in range(clips):
        for first in range(0, each, step):
            yield Regular(slice(clip, clip + 1), first, min(first + step, each), run, each)


def _by_index(index: Tensor, longest: int, alone: int) -> Iterator[Piece]:
    """Long runs of tokens that share a row as pieces of one row, all others with a row for each token."""
    for clip, rows in enumerate(index.long()):
        values, counts = torch.unique_consecutive(rows, return_counts=True)
        begin = pending = 0
        for row, length in zip(values.tolist(), counts.tolist(), strict=True):
            if length >= alone:
                yield from _scattered(clip, rows, pending, begin, longest)
                for first in range(begin, begin + length, longest):
                    yield Alike(clip, first, min(first + longest, begin + length), row)
                pending = begin + length
            begin += length
        yield from _scattered(clip, rows, pending, begin, longest)


def _scattered(clip: int, rows: Tensor, begin: int, end: int, longest: int) -> Iterator[Piece]:
    for first in range(begin, end, longest):
        last = min(first + longest, end)
        yield Scattered(clip, first, last, rows[first:last])
