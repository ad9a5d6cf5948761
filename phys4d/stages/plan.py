"""The plan of a run in words: its stages with lengths, what each starts from, and its gate."""

from collections.abc import Iterator

from phys4d.engine.training.length import shown
from phys4d.mixture import Mixture
from phys4d.models.shipped import shown as model_name
from phys4d.stages.data import with_caches
from phys4d.stages.registry import STAGES
from phys4d.stages.run_file import RunConfig


def scarce(config: RunConfig, stage: str) -> Iterator[str]:
    """A line for each bucket of a stage's clips that is smaller than a batch, so that a batch of it repeats clips."""
    table = config.table(stage)
    size = getattr(table, STAGES[stage].divided[0])
    mixture = Mixture(with_caches(table.data), ())
    for bucket, count in sorted(mixture.counts().items()):
        if count < size:
            clips = f"{count} clip{'s' if count != 1 else ''}"
            yield f"{stage}: {mixture.name}: {clips} of {bucket}, fewer than a batch of {size}: it repeats them"


def plan(config: RunConfig) -> Iterator[str]:
    """One line for each stage of a run, such as "finetune: 125 steps of 8 clips (1000 samples), from model-pretrain of
    this run, gate warp_l1 < 0.03", and those of `scarce`."""
    given = None if config.init is None else model_name(config.init)
    for stage in config.stages:
        table = config.table(stage)
        gate = ", ".join(f"{metric} {' '.join(condition.split())}" for metric, condition in table.gate.items())
        start = "a new model" if given is None else given
        length = shown(table.loop, STAGES[stage].samples(table))
        yield f"{stage}: {length}, from {start}{f', gate {gate}' if gate else ''}"
        yield from scarce(config, stage)
        given = config.output(stage).name
