"""One rank of two: depth, motion and gradients of heads whose frames are divided, or whose weights are sharded.

    torchrun --nproc-per-node 2 head_ranks.py FOLDER

Each rank writes FOLDER/<kind>-<how>-<rank>.pt, and rank 0 also FOLDER/<kind>-alone.pt, what one process finds.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from phys4d.engine.distributed.collectives import full
from phys4d.engine.distributed.sharding import shard_weights
from phys4d.models.heads import GeometryHeads, HeadConfig, chunks
from phys4d.models.interface import Grid

GRID = Grid(9, 32, 48, (4, 8, 8))
WHOLE = chunks.PIXELS


def found(kind: Any, how: str) -> dict[str, Any]:
    """Depth, motion, and the gradients of weights and tokens; of sharded weights half of the sum over the ranks."""
    heads = GeometryHeads(HeadConfig(kind=kind, width=8), 16, 2, 5, GRID)
    draw = torch.Generator().manual_seed(5)
    for parameter in heads.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=draw)
    heads.group = dist.group.WORLD if how == "divided" else None
    chunks.PIXELS = 4 * 32 * 48 if how == "sharded" else WHOLE
    if how == "sharded":
        shard_weights(heads, [], init_device_mesh("cpu", (2,)), reshard=False)
    hidden = tuple(torch.randn(2, 72, 16, generator=draw).requires_grad_() for _ in range(2))
    noisy, sigma = torch.randn(2, 5, 3, 8, 12, generator=draw), torch.tensor([0.05, 0.7])
    depth, motion = heads(hidden, noisy, sigma)
    weights = [torch.randn(x.shape, generator=draw) for x in (depth, motion)]
    ((depth * weights[0]).sum() + (motion * weights[1]).sum()).backward()
    gradients = {f"hidden {k}": x.grad for k, x in enumerate(hidden) if x.grad is not None}
    for name, parameter in heads.named_parameters():
        if parameter.grad is not None:
            gradients[name] = full(parameter.grad) / (2 if how == "sharded" else 1)
    return {"depth": depth.detach(), "motion": motion.detach(), "gradients": gradients}


if __name__ == "__main__":
    dist.init_process_group("gloo")
    folder, rank = Path(sys.argv[1]), dist.get_rank()
    for kind in ("conv", "dpt", "linear"):
        for how in ("divided", "sharded"):
            torch.save(found(kind, how), folder / f"{kind}-{how}-{rank}.pt")
        if rank == 0:
            torch.save(found(kind, "alone"), folder / f"{kind}-alone.pt")
    dist.destroy_process_group()
