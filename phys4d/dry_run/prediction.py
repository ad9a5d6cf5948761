"""What a stage would take on so many GPUs: memory, exchange, time, from counts of its step with few blocks.

A step grows linearly with the number of blocks, which are all alike. It is counted with two small numbers of them, and
extended: figures as they are, and the peak of memory place by place, since which place has the highest peak depends on
the number of blocks.
"""

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from phys4d.caches.lookup import all_read
from phys4d.dry_run.model import Source, hold_in_bf16, stage_model
from phys4d.dry_run.step import CODEC, ROLLOUT, TRAINING, Counted, OneRank, count_step, group_without_ranks
from phys4d.engine.costs.counting import Figures
from phys4d.engine.costs.gpus import GIB, GPU, HOST, LINKS, MEMORY, link, seconds
from phys4d.engine.costs.sharded import FP32, Sharding, own_numbers
from phys4d.engine.distributed.mesh import mesh_shape
from phys4d.models.initial import nothing_drawn
from phys4d.stages.data import data_of
from phys4d.stages.registry import STAGES
from phys4d.stages.run_file import RunConfig

MARGIN = 0.08
"""Share of a GPU's memory that a run which fits leaves free: for the CUDA context, the workspaces of libraries and
communication, and what the allocator cannot use."""


@dataclass(frozen=True)
class Prediction:
    """One stage on one GPU of `world_size`.

    mesh: replicate, shard, context. tokens: of a clip. available: bytes of the GPU. memory, sent: bytes by kind, sent
    per step. seconds: of a step; compute: of its calls alone. model_flops, hardware_flops: of a step on one GPU. clips:
    of a step over all GPUs. mfu: of the dense bf16 peak.
    """

    stage: str
    world_size: int
    mesh: tuple[int, int, int]
    tokens: int
    memory: dict[str, int]
    available: int
    sent: dict[str, int]
    compute: float
    seconds: float
    model_flops: int
    hardware_flops: int
    clips: int
    mfu: float

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether the peak leaves the margin free."""
        return self.total <= (1 - MARGIN) * self.available

    def table(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return asdict(self) | {"total": self.total, "fits": self.fits}


@nothing_drawn()
def predict(
    config: RunConfig, stage: str, source: Source, size: tuple[int, int, int], world_size: int, gpu: GPU
) -> Prediction:
    """Builds the stage's model without values, counts its step on one rank, and makes figures of one GPU."""
    shape, table, layers = mesh_shape(config.parallel, world_size), config.table(stage), source.bare.layers
    model = stage_model(config, stage, source, size, layers)
    with group_without_ranks(shape.context) as group:
        counted = _counted(config, stage, source, size, OneRank(config.parallel, world_size, group))
    available = int(gpu.memory * GIB)
    asked = config.parallel.reshard_after_forward
    hold_in_bf16(model)
    transformer = Sharding(model.backbone.transformer, model.backbone.blocks, shape, available, asked)
    heads = Sharding(model.heads, [], shape, available, asked)
    parts = (transformer, heads)
    trained = [p for part in parts for p in part.module.parameters() if p.requires_grad]
    own = sum(own_numbers(p, transformer.ranks) for p in trained)
    offload = table.optimizer.offload
    sums = counted.figures.sums
    memory = {
        "parameters": sum(part.held(p) for part in parts for p in part.module.parameters()),
        "moments": 0 if "moments" in offload else 2 * FP32 * own,
        "EMA": FP32 * own if table.optimizer.ema > 0 and "ema" not in offload else 0,
        "codec": _whole(model.codec) if sums[CODEC] else 0,
        "text encoder": 0 if all_read(data_of(table), config.cache) else _whole(model.text),
    }
    gathered = {phase: sum(part.gathered(rollout=phase == ROLLOUT) for part in parts) for phase in (ROLLOUT, TRAINING)}
    gathered[TRAINING] += max(part.gradients_on_their_way() for part in parts)
    live, gradients, phase = max(
        ((*peak, place[0]) for place, peak in counted.peaks.items()), key=lambda peak: peak[0] + gathered[peak[2]]
    )
    memory |= {"gathered": gathered[phase], "gradients": gradients, "activations": live - gradients}

    sent = Counter({kind.removeprefix("sent: "): n for kind, n in sums.items() if kind.startswith("sent: ")})
    exposed = sum(sent.values()) / link(gpu, shape, "context")
    for name, part in (("transformer", transformer), ("heads", heads)):
        evaluated, trained_on, rolled_out = (sums[f"{name}: {kind}"] for kind in ("evaluated", TRAINING, ROLLOUT))
        sent.update(part.sent(evaluated, trained_on, sums["rollouts"], rolled_out, sums["optimizer steps"]))
    within = sent["gather weights"] + sent["sum gradients over shards"]
    overlapped = within / link(gpu, shape, "weights")
    overlapped += sent["sum gradients over replicas"] / link(gpu, shape, "replicate")
    moved = sums["optimizer steps"] * own * 7 * FP32  # AdamW reads 4 numbers and writes 3
    update = 0.0 if "moments" in offload else moved / (MEMORY * gpu.bandwidth * 1e9)
    if offload:  # the host waits for what crosses the bus, and computes alone
        exposed += 2 / 7 * moved / (LINKS * gpu.bus * 1e9) + moved / (HOST * 1e9)
    compute = seconds(counted.figures.operators, gpu) + update
    step = max(compute, overlapped) + exposed
    return Prediction(
        stage=stage,
        world_size=world_size,
        mesh=(shape.replicate, shape.shard, shape.context),
        tokens=math.prod(model.grid.tokens),
        memory=memory,
        available=available,
        sent=dict(sent),
        compute=compute,
        seconds=step,
        model_flops=sums["model flops"],
        hardware_flops=sums["hardware flops"],
        clips=STAGES[stage].samples(table),
        mfu=sums["model flops"] / (step * gpu.bf16 * 1e12),
    )


def _counted(
    config: RunConfig, stage: str, source: Source, size: tuple[int, int, int], parallel: OneRank
) -> Counted:
    """The step with all blocks, from those with few."""
    layers, every = source.bare.layers, source.bare.period
    if config.checkpointing.startswith("every_"):
        every = math.lcm(every, int(config.checkpointing.removeprefix("every_")))
    few = every * -(-max(3, len(source.config.taps) + 1) // every)

    def with_blocks(count: int) -> Counted:
        model = stage_model(config, stage, source, size, count)
        return count_step(config, stage, model, parallel, size, source.codec)

    tables = (config.table(name) for name in config.stages[: config.stages.index(stage) + 1])
    uneven = any(getattr(table, "blocks", None) is not None for table in tables)  # blocks with and without adapters
    if uneven or few + every >= layers or layers % every:
        return with_blocks(layers)
    return extended(with_blocks(few), with_blocks(few + every), (layers - few) // every)


def extended(less: Counted, more: Counted, times: int) -> Counted:
    """The step whose difference from `less` is `times` that of `more`."""

    def line(a: int, b: int) -> int:
        return a + times * (b - a)

    operators, sums = less.figures.operators, less.figures.sums
    peaks = {
        place: (line(peak[0], more.peaks[place][0]), line(peak[1], more.peaks[place][1]))
        for place, peak in less.peaks.items()
        if place in more.peaks
    }
    return Counted(
        peaks,
        Figures(
            Counter({key: line(operators[key], n) for key, n in more.figures.operators.items()}),
            Counter({key: line(sums[key], n) for key, n in more.figures.sums.items()}),
        ),
    )


def _whole(module: Any) -> int:
    """Bytes of a module that every rank holds whole; 0 of what is no module."""
    parameters = module.parameters() if hasattr(module, "parameters") else ()
    return sum(p.numel() * p.element_size() for p in parameters)
