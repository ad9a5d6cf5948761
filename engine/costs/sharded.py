"""What FSDP2 holds and sends of a module's weights, by its rules, without a process group."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from phys4d.engine.distributed.mesh import MeshShape
from phys4d.engine.distributed.sharding import gathered_bytes, gathers_again, stays_gathered

FP32 = 4  # bytes of a number in gradients and moments


def own_numbers(parameter: Tensor, ranks: int) -> int:
    """Numbers of a parameter that the first rank holds, which has the most: an even share of the rows, rounded up."""
    if parameter.dim() == 0:
        return 1
    rows = -(-len(parameter) // ranks)
    return rows * (parameter.numel() // max(1, len(parameter)))


@dataclass(frozen=True)
class Sharding:
    """The weights of one module over a mesh; `memory`: bytes of one device, by which torch's own choice is made here.

    blocks: its submodules that are gathered one at a time. shape: of the mesh. asked: the setting
    `reshard_after_forward` of the run file.
    """

    module: nn.Module
    blocks: Sequence[nn.Module]
    shape: MeshShape
    memory: int
    asked: str = "auto"

    @property
    def ranks(self) -> int:
        """Ranks that share one copy of the weights."""
        return self.shape.shard * self.shape.context

    @property
    def distributed(self) -> bool:
        """Whether there is more than one process, and so FSDP."""
        return self.ranks * self.shape.replicate > 1

    @property
    def gathers_again(self) -> bool:
        """Whether a block is gathered for its backward pass once more."""
        if self.asked == "auto":
            return gathers_again(gathered_bytes(self.module), self.memory)
        return self.asked == "always"

    @property
    def kept_in_rollouts(self) -> bool:
        """Whether weights stay gathered between evaluations without gradients."""
        return self.distributed and stays_gathered(gathered_bytes(self.module), self.memory)

    def held(self, parameter: Tensor, size: int | None = None) -> int:
        """Bytes of a parameter on one rank, in its own dtype, or with `size` bytes a number."""
        return own_numbers(parameter, self.ranks) * (size or parameter.element_size())

    def gathered(self, *, rollout: bool = False) -> int:
        """Bytes of weights that are gathered at once, beside the sharded ones, with the buffer they arrive in.

        Of a module that is gathered block by block: the root's own, the block that is computed, the next one, and the
        buffer of one.
        """
        if not self.distributed:
            return 0
        sizes = [gathered_bytes(block) for block in self.blocks]
        root = gathered_bytes(self.module) - sum(sizes)
        if not sizes:
            return root
        if not self.gathers_again or (rollout and self.kept_in_rollouts):
            return root + sum(sizes) + max(sizes)
        return root + max((a + b for a, b in pairwise(sizes)), default=sizes[0]) + max(sizes)

    def gradients_on_their_way(self) -> int:
        """Bytes of a block's gradients, whole, and of the buffer from which they are summed over the ranks."""
        if not self.distributed:
            return 0
        parts = [*self.blocks] or [self.module]
        return 2 * FP32 * max(sum(p.numel() for p in part.parameters() if p.requires_grad) for part in parts)

    def sent(self, evaluated: int, trained: int, rollouts: int, rolled_out: int, steps: int) -> dict[str, int]:
        """Bytes that one rank receives in a step, by kind.

        evaluated: evaluations without gradients outside of rollouts. trained: with gradients. rollouts: times that
        weights are kept gathered, in which there are `rolled_out` evaluations. steps: optimizer steps.
        """
        if not self.distributed:
            return {}
        blocks = sum(gathered_bytes(block) for block in self.blocks)
        root = gathered_bytes(self.module) - blocks
        kept = rollouts if self.kept_in_rollouts else rolled_out
        times = kept + evaluated + trained * (2 if self.gathers_again else 1)
        roots = kept + evaluated + trained
        share = (self.ranks - 1) / self.ranks
        gradients = FP32 * sum(p.numel() for p in self.module.parameters() if p.requires_grad)
        own = FP32 * sum(own_numbers(p, self.ranks) for p in self.module.parameters() if p.requires_grad)
        copies = self.shape.replicate
        return {
            "gather weights": round(share * (times * blocks + roots * root)),
            "sum gradients over shards": round(share * steps * gradients),
            "sum gradients over replicas": round(2 * (copies - 1) / copies * steps * own),
        }
