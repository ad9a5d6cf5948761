"""What makes a run that does not fit take less memory: settings, each counted."""

from collections.abc import Iterator
from dataclasses import dataclass

from phys4d.dry_run.model import Source
from phys4d.dry_run.prediction import Prediction, predict
from phys4d.engine.costs.gpus import GPU, NODE
from phys4d.engine.distributed.mesh import mesh_shape
from phys4d.engine.errors import UserError
from phys4d.stages.registry import STAGES
from phys4d.stages.run_file import RunConfig


@dataclass(frozen=True)
class Knob:
    """Settings of the run file, as `--set` takes them, and what the stage takes with them."""

    settings: tuple[str, ...]
    prediction: Prediction


def knobs(
    config: RunConfig, stage: str, source: Source, size: tuple[int, int, int], world_size: int, gpu: GPU
) -> list[Knob]:
    """Ways to less memory in the order in which they cost time, up to the first that fits; context parallel within a
    node only."""
    found: list[Knob] = []
    for settings, changed in _changes(config, stage, world_size):
        try:
            prediction = predict(changed, stage, source, size, world_size, gpu)
        except UserError:  # these tokens, heads or clips do not divide so
            continue
        found.append(Knob(settings, prediction))
        if prediction.fits:
            break
    return found


def _changes(config: RunConfig, stage: str, world_size: int) -> Iterator[tuple[tuple[str, ...], RunConfig]]:
    """One setting after the other, each beside those before it."""
    settings: tuple[str, ...] = ()
    table, shape = config.table(stage), mesh_shape(config.parallel, world_size)
    if table.micro_batch != 1 and STAGES[stage].samples(table) > shape.data:
        table = table.model_copy(update={"micro_batch": 1})
        settings, config = (*settings, f"{stage}.micro_batch=1"), config.model_copy(update={stage: table})
        yield settings, config
    for mode in ("selective", "full"):
        if config.checkpointing == "full" or config.checkpointing == mode:
            continue
        fuller = (*settings, f"checkpointing={mode}"), config.model_copy(update={"checkpointing": mode})
        yield fuller
    if config.checkpointing != "full":
        settings, config = fuller
    if STAGES[stage].owns_backbone and table.optimizer.adam == "torch" and "moments" not in table.optimizer.offload:
        optimizer = table.optimizer.model_copy(update={"offload": ("moments", *table.optimizer.offload)})
        table = table.model_copy(update={"optimizer": optimizer})
        settings = *settings, f'{stage}.optimizer.offload=["moments"]'
        config = config.model_copy(update={stage: table})
        yield settings, config
    context = shape.context * 2
    while context <= min(NODE, world_size // shape.replicate):
        parallel = config.parallel.model_copy(update={"context": context, "shard": None})
        yield (*settings, f"parallel.context={context}"), config.model_copy(update={"parallel": parallel})
        context *= 2
