"""FLOPs that a rank counts of attention over a process group, run as a program by the tests.

torchrun ... flops_ranks.py FOLDER    every rank writes FLOPs by context to FOLDER/rank-<r>.json
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from phys4d.engine.distributed.collectives import leave_group
from phys4d.kernels.attention import attention


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {}
    for context in ("ulysses", "ring"):
        q, k, v = (torch.randn(1, 15, 4, 8, requires_grad=True) for _ in range(3))
        with FlopCounterMode(display=False) as counter:
            out = attention(q, k, v, grid=(5, 3, 2), group=dist.group.WORLD, context=context, backend="reference")
            found[context] = counter.get_total_flops()
            out.sum().backward()
        found[f"{context} backward"] = counter.get_total_flops() - found[context]
    (Path(sys.argv[1]) / f"rank-{dist.get_rank()}.json").write_text(json.dumps(found))
    leave_group()


main()
