"""Which row of a modulation each token takes."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake

# About how many segments many tokens are divided into: multiples of the 132 SMs of an H100, so that the last programs
# end at the same time, and equal on every GPU, so that sums do not change. Each reads its row of the modulation once.
FORWARD_PROGRAMS = 1056
BACKWARD_PROGRAMS = 528


@dataclass(frozen=True)
class TokenRows:
    """For every token the row of the modulation that it takes, and the tokens in the order of their rows.

    Made once for all layers that share it, by `TokenRows.of`.

    Attributes:
        index: [B, S] int32, on the device of the tokens like all of them; any strides.
        order: [B * S] int32: positions of tokens, sorted by row.
        forward, backward: [n, 3] int32: row, begin and end, in that order, of segments that share a row; short ones
            forward, few and long ones backward. Some at the end may be empty.
        begins: [rows + 1] int32: where each row's segments of the backward pass begin.
    """

    index: Tensor
    order: Tensor
    forward: Tensor
    backward: Tensor
    begins: Tensor

    @staticmethod
    def of(index: Tensor, rows: int) -> "TokenRows":
        """From the row of each token; the device is not waited for.

        Args:
            index: [B, S] integers in 0..rows - 1, repeated and in any order.
            rows: how many rows the tables have.

        Raises:
            ValueError: not integers [B, S]; on the CPU also a row that is not there (elsewhere the device asserts).
        """
        if index.ndim != 2 or index.dtype.is_floating_point or index.dtype == torch.bool:
            raise ValueError(f"token rows: expected integers [B, S], got {index.dtype} {list(index.shape)}")
        flat = index.flatten()
        traced = torch.compiler.is_compiling() or is_fake(flat)
        readable = flat.device.type == "cpu" and flat.numel() and not traced
        if readable and not 0 <= int(flat.min()) <= int(flat.max()) < rows:
            raise ValueError(f"token rows: expected 0 to {rows - 1}, got {int(flat.min())} to {int(flat.max())}")
        if flat.device.type != "cpu":
            torch._assert_async(((flat >= 0) & (flat < rows)).all(), f"token rows: not in 0 to {rows - 1}")
        flat, order = flat.sort(stable=True)
        begins = torch.searchsorted(flat, torch.arange(rows + 1, device=flat.device, dtype=flat.dtype))
        forward, _ = _segments(begins, FORWARD_PROGRAMS, flat.numel())
        backward, segments = _segments(begins, BACKWARD_PROGRAMS, flat.numel())
        return TokenRows(*(t.int().contiguous() for t in (index, order, forward, backward, segments)))


def _segments(begins: Tensor, programs: int, total: int) -> tuple[Tensor, Tensor]:
    """Segments [n, 3] of one row each, of at most total / programs tokens, and which is each row's first.

    n is an upper bound, so that the host need not wait for a count.
    """
    rows, longest = len(begins) - 1, -(-max(1, total) // programs)
    first = torch.zeros_like(begins)
    first[1:] = (begins.diff() + longest - 1).div(longest, rounding_mode="floor").cumsum(0)
    number = torch.arange(rows + total // longest, device=begins.device, dtype=begins.dtype)
    row = (torch.searchsorted(first, number, right=True) - 1).clamp(max=rows - 1)
    begin = begins[row] + (number - first[row]) * longest
    end = torch.minimum(begin + longest, begins[row + 1])
    begin = torch.minimum(begin, end)  # beyond the last: empty
    return torch.stack((row, begin, end), dim=1), first
