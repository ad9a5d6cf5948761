"""How a sequence is divided over the ranks of a process group."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.distributed as dist

from phys4d.kernels.attention.patterns import Grid, Text

if TYPE_CHECKING:  # a torch built without distributed has no such name
    from torch.distributed import ProcessGroup


def part_of(count: int, rank: int, size: int) -> slice:
    """The part of `count` things that rank `rank` of `size` holds: contiguous, the first count % size longer by one.

    The same division as `torch.tensor_split(x, size)[rank]`.

    Raises:
        ValueError: no such rank.
    """
    if not 0 <= rank < size or count < 0:
        raise ValueError(f"part_of: expected a rank of 0 to {size - 1} and a count, got rank {rank} and {count}")
    short, longer = divmod(count, size)
    start = rank * short + min(rank, longer)
    return slice(start, start + short + (rank < longer))


@dataclass(frozen=True)
class Parts:
    """The whole sequence of `count` tokens, text included, of which rank r of `size` holds `part_of(count, r, size)`.

    Raises:
        ValueError: a rank would hold no token, or this process is not in the group.
    """

    count: int
    rank: int
    size: int
    group: "ProcessGroup"

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ValueError("group: this process is not in it")
        if self.count < self.size:
            raise ValueError(f"group: {self.count} tokens do not give each of {self.size} ranks one")

    @staticmethod
    def of(group: "ProcessGroup", grid: Grid | None, text: Text | None) -> "Parts":
        """The division of the sequence that (T, H, W) and text make, known to every rank without asking the others."""
        if grid is None or len(grid) != 3 or min(grid) < 1:
            raise ValueError(f"group: needs the grid (T, H, W) of the whole sequence, got {grid}")
        count = grid[0] * grid[1] * grid[2] + (text[0] if text else 0)
        return Parts(count, dist.get_rank(group), dist.get_world_size(group), group)

    @property
    def own(self) -> slice:
        """This rank's tokens."""
        return part_of(self.count, self.rank, self.size)

    @property
    def lengths(self) -> list[int]:
        """Tokens of every rank."""
        parts = [part_of(self.count, rank, self.size) for rank in range(self.size)]
        return [part.stop - part.start for part in parts]

    def check(self, queries: int, keys: int) -> None:
        """Raises ValueError if this rank's queries and keys are not its part."""
        if queries != self.lengths[self.rank] or keys != queries:
            raise ValueError(
                f"group: rank {self.rank} of {self.size} holds tokens {self.own.start} to {self.own.stop - 1} of "
                f"{self.count}, {self.lengths[self.rank]} queries and keys, got {queries} and {keys}"
            )
