"""A transformer's tokens divided over the ranks of a process group, from its first block to its last.

This is context parallelism. Outside of the blocks every rank computes the same. Before the first block it takes its
part of the tokens, attention exchanges what it needs (`attention(group=...)`), and behind the last block the parts are
gathered. Each rank calls `backward` on a loss of its own, and gets what passes through its part of the gradient of the
sum of all these losses. So, for all weights alike, the sum over the group is the gradient of the summed losses; where
every rank computes the same loss, the mean over the group is the gradient of one process, as under data parallelism.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from phys4d.kernels.attention.context import Context
from phys4d.kernels.attention.parts import Parts
from phys4d.kernels.elementwise import TokenRows

if TYPE_CHECKING:  # a torch built without distributed has no such name
    from torch.distributed import ProcessGroup


class DividedTokens:
    """The division of one transformer's tokens in its current forward pass.

    A model whose blocks take text beside the video's tokens divides both as one sequence, the text in front. From its
    first to its last block a rank holds one stream of its part of that sequence; which of it is text, only the rows of
    modulation and the rotation ask.

    Attributes:
        group: the process group. context: how attention exchanges tokens.
        first, last: the blocks in front of which tokens are divided, and behind which they are gathered.
        parts: of the current pass; set by the first block. text: how many of its tokens, in front, are text.
    """

    def __init__(self, group: "ProcessGroup", blocks: Any, context: Context) -> None:
        self.group, self.context = group, context
        self.first, self.last = blocks[0], blocks[-1]
        self._parts: Parts | None = None
        self.text = 0
        self._rows: dict[tuple[Any, ...], TokenRows] = {}

    @property
    def parts(self) -> Parts:
        """The division in the current forward pass."""
        assert self._parts is not None, "a block or an attention module was called outside of its transformer"
        return self._parts

    def enter(self, tokens: Tensor) -> Tensor:
        """Tokens [B, S, C] at the input of the first block: this rank's part of them."""
        self._parts = Parts.of(self.group, (tokens.shape[1], 1, 1), None)
        return own_part(tokens, self._parts)

    def enter_joint(self, video: Tensor, text: Tensor) -> Tensor:
        """Tokens of video and text, [B, S, C] each, at the input of the first block: this rank's part of both."""
        self.text = text.shape[1]
        self._parts = Parts.of(self.group, (video.shape[1], 1, 1), (self.text, "first"))
        own = self._parts.own
        from_video = slice(max(0, own.start - self.text), max(0, own.stop - self.text))
        return torch.cat((text[:, own], video[:, from_video]), dim=1)

    def stream_rows(self, clips: int, device: torch.device) -> TokenRows:
        """Which of clips * 2 rows of modulation this rank's tokens take: of each clip the video's, then the text's."""
        parts = self.parts
        key = (clips, "joint", self.text, parts.count, device)
        if key not in self._rows:
            is_text = torch.arange(parts.own.start, parts.own.stop, device=device) < self.text
            index = is_text.long() + 2 * torch.arange(clips, device=device)[:, None]
            self._rows[key] = TokenRows.of(index, 2 * clips)
        return self._rows[key]

    def token_rows(self, clips: int, rows: int, device: torch.device) -> TokenRows:
        """Which of clips * rows rows of modulation this rank's tokens take, where `rows` divide a clip's tokens."""
        parts = self.parts
        key = (clips, rows, parts.count, device)
        if key not in self._rows:
            own = torch.arange(parts.own.start, parts.own.stop, device=device) // (parts.count // rows)
            index = own + rows * torch.arange(clips, device=device)[:, None]
            self._rows[key] = TokenRows.of(index, clips * rows)
        return self._rows[key]


def own_part(tokens: Tensor, parts: Parts) -> Tensor:
    """Tokens [B, S, C], equal on all ranks -> this rank's [B, S_r, C]; its gradient is that of this rank's alone."""
    return _Divide.apply(tokens, parts)  # type: ignore[no-untyped-call]


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
        own = ctx.parts.own
        return torch.nn.functional.pad(gradient, (0, 0, own.start, ctx.parts.count - own.stop)), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, parts: Parts) -> Tensor:
        ctx.parts = parts
        return _gather(tokens, parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _sum_of_own(gradient, ctx.parts), None


def _gather(tokens: Tensor, parts: Parts) -> Tensor:
    """Parts are padded to the longest one, since collectives take equal shapes."""
    lengths = parts.lengths
    padded = torch.nn.functional.pad(tokens, (0, 0, 0, max(lengths) - tokens.shape[1])).contiguous()
    received = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(received, padded, group=parts.group)
    return torch.cat([part[:, :length] for part, length in zip(received, lengths, strict=True)], 1)


def _sum_of_own(gradient: Tensor, parts: Parts) -> Tensor:
    """This rank's tokens [B, S_r, C] of the sum over all ranks of [B, S, C], summed in float32 or wider."""
    lengths = parts.lengths
    exact = torch.promote_types(gradient.dtype, torch.float32)
    padded = [
        torch.nn.functional.pad(part, (0, 0, 0, max(lengths) - part.shape[1])).to(exact)
        for part in gradient.split(lengths, dim=1)
    ]
    total = torch.empty_like(padded[0])
    dist.reduce_scatter_tensor(total, torch.cat(padded), group=parts.group)
    return total[:, : lengths[parts.rank]].to(gradient.dtype)
