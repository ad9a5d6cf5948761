"""A transformer's tokens divided over the ranks of a process group, from its first block to its last.

This is context parallelism. Outside of the blocks every rank computes the same. Before the first block it takes its
part of the tokens, attention exchanges what it needs (`attention(group=...)`), and behind the last block the parts are
gathered. In the backward pass each rank gets the whole gradient of what stands before the blocks, and, of the blocks'
own weights, the part that its tokens contribute: the sum over the group is the gradient of one process.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from phys4d.kernels.attention.parts import Parts
from phys4d.kernels.elementwise import TokenRows

if TYPE_CHECKING:  # a torch built without distributed has no such name
    from torch.distributed import ProcessGroup


class DividedTokens:
    """The division of one transformer's tokens in its current forward pass.

    Attributes:
        group: the process group.
        first, last: the blocks in front of which tokens are divided, and behind which they are gathered.
        parts: of the current pass; set by the first block.
    """

    def __init__(self, group: "ProcessGroup", blocks: Any) -> None:
        self.group = group
        self.first, self.last = blocks[0], blocks[-1]
        self._parts: Parts | None = None
        self._rows: dict[tuple[Any, ...], TokenRows] = {}

    @property
    def parts(self) -> Parts:
        """The division in the current forward pass."""
        assert self._parts is not None, "a block or an attention module was called outside of its transformer"
        return self._parts

    def enter(self, block: Any, tokens: Tensor) -> Tensor:
        """Tokens [B, S, C] at the input of a block: this rank's part of them."""
        if block is not self.first:
            return tokens
        self._parts = Parts.of(self.group, (tokens.shape[1], 1, 1), None)
        return _Divide.apply(tokens, self._parts)  # type: ignore[no-untyped-call]

    def leave(self, block: Any, tokens: Tensor) -> Tensor:
        """Tokens at the output of a block: all of them behind the last one."""
        return gathered(tokens, self.parts) if block is self.last else tokens

    def shared(self, tensor: Tensor) -> Tensor:
        """An input that all ranks hold whole, such as text: its gradient is summed over the group."""
        if tensor.requires_grad:
            return _SumBackward.apply(tensor, self.group)  # type: ignore[no-untyped-call]
        return tensor

    def token_rows(self, clips: int, rows: int, device: torch.device) -> TokenRows:
        """Which of clips * rows rows of modulation this rank's tokens take, where `rows` divide a clip's tokens."""
        parts = self.parts
        key = (clips, rows, parts.count, device)
        if key not in self._rows:
            own = torch.arange(parts.own.start, parts.own.stop, device=device) // (parts.count // rows)
            index = own + rows * torch.arange(clips, device=device)[:, None]
            self._rows[key] = TokenRows.of(index, clips * rows)
        return self._rows[key]


def gathered(tokens: Tensor, parts: Parts) -> Tensor:
    """This rank's tokens [B, S_r, C] -> those of all ranks [B, S, C], on every rank; a collective."""
    return _Gather.apply(tokens, parts)  # type: ignore[no-untyped-call]


class _Divide(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, parts: Parts) -> Tensor:
        ctx.parts = parts
        return tokens[:, parts.own].contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _gather(gradient, ctx.parts), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, parts: Parts) -> Tensor:
        ctx.parts = parts
        return _gather(tokens, parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient[:, ctx.parts.own].contiguous(), None  # equal on all ranks, since each computes all that follows


class _SumBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        gradient = gradient.contiguous()
        if gradient.dtype in (torch.bfloat16, torch.float16):  # summed in float32
            total = gradient.float()
            dist.all_reduce(total, group=ctx.group)
            return total.to(gradient.dtype), None
        total = gradient.clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


def _gather(tokens: Tensor, parts: Parts) -> Tensor:
    """Parts are padded to the longest one, since collectives take equal shapes."""
    lengths = parts.lengths
    padded = torch.nn.functional.pad(tokens, (0, 0, 0, max(lengths) - tokens.shape[1])).contiguous()
    received = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(received, padded, group=parts.group)
    return torch.cat([part[:, :length] for part, length in zip(received, lengths, strict=True)], 1)
