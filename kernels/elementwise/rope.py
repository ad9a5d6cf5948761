"""Rotary position embedding over a video's three axes (Su et al. 2021, RoFormer, per axis), as small tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Layout = Literal["interleaved", "half"]
Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Rope:
    """Rotations of pairs of channels, by an angle per axis position: a table per axis instead of one per token.

    Pair i of a head takes its angle from the time table for the first pairs, then from the height's, then from the
    width's. Its channels are 2i and 2i + 1 (`interleaved`: Wan, CogVideoX) or i and i + D/2 (`half`). Pairs beyond the
    tables, which only `interleaved` may have, are left as they are; so are text tokens. The tables are on the device of
    the tokens that they turn: `Rope.make(..., device=)` makes them there, `to` moves them, once.

    Args:
        tables: three float32 tensors [positions, pairs, 2], cosine and sine; an axis without pairs has [n, 0, 2].
        layout: which channels make a pair.
    """

    tables: tuple[Tensor, Tensor, Tensor]
    layout: Layout = "interleaved"

    def __post_init__(self) -> None:
        if self.layout not in ("interleaved", "half"):
            raise ValueError(f'rope: expected the layout "interleaved" or "half", got {self.layout!r}')
        for axis, table in zip(("time", "height", "width"), self.tables, strict=True):
            if table.ndim != 3 or table.shape[2] != 2 or table.dtype not in (torch.float32, torch.float64):
                raise ValueError(
                    f"rope: the {axis} table must be float32 [positions, pairs, 2], "
                    f"got {table.dtype} {list(table.shape)}"
                )

    @property
    def pairs(self) -> int:
        """Pairs of channels that are rotated."""
        return sum(table.shape[1] for table in self.tables)

    def to(self, device: torch.device | str) -> "Rope":
        """The same rotation with its tables on a device; itself where they are there."""
        time, height, width = (table.to(device) for table in self.tables)
        same = all(a is b for a, b in zip((time, height, width), self.tables, strict=True))
        return self if same else Rope((time, height, width), self.layout)

    @staticmethod
    def make(
        sizes: Sequence[int],
        channels: Sequence[int],
        *,
        theta: float = 10_000.0,
        layout: Layout = "interleaved",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "Rope":
        """Tables for positions 0 to size - 1 of each axis; pair i of an axis turns by position * theta^(-2i/channels).

        Args:
            sizes: positions of time, height and width.
            channels: even numbers of channels of a head that each axis gets (Wan, D = 128: 44, 42, 42).
            theta: base of the frequencies.
            layout: which channels make a pair, as in `Rope`.
            device, dtype: of the tables; float32 or float64.
        """
        tables = []
        for size, width in zip(sizes, channels, strict=True):
            if width % 2:
                raise ValueError(f"rope: expected an even number of channels per axis, got {list(channels)}")
            frequency = theta ** (-torch.arange(0, width, 2, dtype=torch.float64, device=device) / width)
            angle = torch.arange(size, dtype=torch.float64, device=device)[:, None] * frequency
            tables.append(torch.stack((angle.cos(), angle.sin()), dim=-1).to(dtype))
        return Rope((tables[0], tables[1], tables[2]), layout)
