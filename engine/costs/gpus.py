"""GPUs by name, and how long what a step does takes on them: a roofline for each call, from data sheets.

Memory, peaks and bandwidths are those of NVIDIA's data sheets (A100 80GB SXM, 2021; H100 SXM, 2023; H200 SXM, 2024; HGX
B200, 2024), networks those of its DGX systems: A100 8 x 200 Gb/s, H100, H200 and B200 8 x 400 Gb/s; the bus is PCIe x16
of the 4th and 5th generation. Peaks are dense.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from phys4d.engine.costs.counting import Operator
from phys4d.engine.distributed.mesh import MeshShape

GIB = 2**30
NODE = 8  # GPUs of a node that are joined by NVLink


@dataclass(frozen=True)
class GPU:
    """memory in GiB as CUDA reports it; bf16, tf32, fp32 in TFLOP/s; bandwidth of its memory, nvlink and network of
    one GPU in one direction, and bus to the host's memory, in GB/s."""

    title: str
    memory: float
    bf16: float
    tf32: float
    fp32: float
    bandwidth: float
    nvlink: float
    network: float
    bus: float


GPUS = {
    "a100": GPU("A100 80GB SXM", 79.1, 312, 156, 19.5, 2039, 300, 25, 32),
    "h100": GPU("H100 80GB SXM", 79.1, 989, 494, 67, 3350, 450, 50, 64),
    "h200": GPU("H200 141GB SXM", 139.8, 989, 494, 67, 4800, 450, 50, 64),
    "b200": GPU("B200 180GB SXM", 178.3, 2250, 1100, 75, 7700, 900, 50, 64),
}

# Shares of the peaks that are assumed to be reached; none of them was measured for this table.
PRODUCTS, ATTENTION, ATTENTION_BACKWARD, CONVOLUTIONS, MEMORY, LINKS = 0.70, 0.60, 0.50, 0.30, 0.80, 0.75
HOST = 40.0  # GB/s of the host's memory for one GPU: 8 of them share some 300

ASSUMED = (
    f"Assumed shares of the data sheet's peaks: matrix products {PRODUCTS:.0%}, attention {ATTENTION:.0%} forward and "
    f"{ATTENTION_BACKWARD:.0%} backward, fp32 convolutions {CONVOLUTIONS:.0%} of TF32, memory {MEMORY:.0%}, links "
    f"{LINKS:.0%}. Each call takes the longer of its arithmetic and its memory traffic. Gathers and sums of weights "
    "overlap with computing, exchanges of tokens do not. Waits for data, launches of kernels and rewards are left out."
)


def seconds(operators: Mapping[Operator, float], gpu: GPU) -> float:
    """Time of calls on one GPU: for each the longer of its arithmetic and its memory traffic."""
    rates = {
        "attention": ATTENTION * gpu.bf16,
        "attention backward": ATTENTION_BACKWARD * gpu.bf16,
        "matmul bfloat16": PRODUCTS * gpu.bf16,
        "convolution bfloat16": CONVOLUTIONS * gpu.bf16,
        "matmul float32": PRODUCTS * gpu.fp32,  # torch computes them without TF32, unless it is asked to
        "convolution float32": CONVOLUTIONS * gpu.tf32,
    }
    total = 0.0
    for (kind, flops, moved), count in operators.items():
        arithmetic = flops / (rates.get(kind, PRODUCTS * gpu.fp32) * 1e12)
        total += count * max(arithmetic, moved / (MEMORY * gpu.bandwidth * 1e9))
    return total


def link(gpu: GPU, shape: MeshShape, what: str) -> float:
    """Bytes a second in which a rank receives in the groups of one mesh dimension: "weights", "replicate", "context".

    Ranks of a group stand next to each other, those of "replicate" shard x context apart. A group within a node uses
    NVLink; one over nodes the network interfaces of its ranks of a node, which are then used together.
    """
    sharded = shape.shard * shape.context
    size, apart = {
        "weights": (sharded, 1), "replicate": (shape.replicate, sharded), "context": (shape.context, 1),
    }[what]  # fmt: skip
    if size * apart <= NODE:
        return LINKS * gpu.nvlink * 1e9
    within = max(1, NODE // apart)
    return LINKS * min(gpu.nvlink, within * gpu.network) * 1e9
