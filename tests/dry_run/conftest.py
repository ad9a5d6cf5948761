"""A stage's step on real tensors, beside the same step counted without values."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.batch import Batch
from phys4d.dry_run.clips import ClipsWithoutValues
from phys4d.engine.config import build
from phys4d.engine.costs.memory import Peak, uncollected
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.training.optimizer import Optimizer
from phys4d.models.folder import released
from phys4d.models.placement import place
from phys4d.models.world import WorldModel, create_model
from phys4d.stages.registry import STAGES
from phys4d.stages.run_file import RunConfig
from tests.models.cogvideox.conftest import write_cogvideox  # noqa: F401 (a fixture)

Size = tuple[int, int, int]


def made(**keys: Any) -> RunConfig:
    """A run file of these stages; keys of tables as `finetune={...}`, others of the file itself."""
    common = {"data": Path("data"), "optimizer": {"learning_rate": 1e-4}, "loop": {"steps": 1}}
    stages = [name for name in STAGES if name in keys]
    tables = {name: {**common, **keys.pop(name)} for name in stages}
    return build(RunConfig, {"folder": Path("run"), "stages": tuple(stages), **tables, **keys}, "run")


@pytest.fixture(scope="session")
def run_file() -> Callable[..., RunConfig]:
    """Makes a run file."""
    return made


class ClipsOfNoise(ClipsWithoutValues):
    """The same clips with values: random numbers, masks that are all set."""

    def batch(self, *place: Any, **options: Any) -> Batch:
        empty = super().batch(*place, **options)

        def filled(value: Tensor) -> Tensor:
            return torch.ones_like(value) if value.dtype == torch.bool else torch.rand(value.shape) + 1

        values = {field.name: getattr(empty, field.name) for field in fields(empty)}
        values |= {name: filled(values[name]) for name in ("video", "text", "intrinsics")}
        return Batch(**values | {"arrays": {name: filled(array) for name, array in empty.arrays.items()}})


def real_model(config: RunConfig, stage: str, size: Size) -> WorldModel:
    """The stage's model with weights."""
    if config.init is None:
        model = create_model(config.model, *size, seed=0).requires_grad_(False)
    else:
        model = released(config.init, config.model, size).model
    model.backbone.precision = config.precision
    model.use_attention("auto", Parallel.alone())
    for name in config.stages[: config.stages.index(stage) + 1]:
        STAGES[name].objective.prepare(model, config.table(name), 0)
    return place(model, Parallel.alone(), checkpointing=config.checkpointing)


@pytest.fixture(scope="session")
def measured() -> Callable[[RunConfig, str, Size], tuple[int, int]]:
    """Bytes of weights, moments and EMA without the text encoder's, and what a step takes at most beside them, on real
    tensors."""

    def bytes_of(config: RunConfig, stage: str, size: Size) -> tuple[int, int]:
        model, spec, table = real_model(config, stage, size), STAGES[stage], config.table(stage)
        clips: Any = ClipsOfNoise(size, spec.arrays(table), (model.text.tokens, model.text.width))
        objective = spec.objective(table, model, Parallel.alone(), 0, clips)
        if stage == "reward_gradient":  # a dry run does not count what the graph of the reward itself keeps
            objective.leave_out_values()
        optimizer = Optimizer(table.optimizer, objective.modules(), objective.parameter_groups())
        objective.update(0, optimizer.optimizer_step)  # reads the codec's weights
        for parameter in model.parameters():
            parameter.grad = None
        held = {t.untyped_storage()._cdata: t for t in (*model.parameters(), *optimizer.state().values())}
        with uncollected(), Peak([*held.values(), *model.buffers()]) as peak:
            objective.update(1, optimizer.optimizer_step)
        text = getattr(model.text, "model", None)
        left_out = {p.untyped_storage()._cdata for p in text.parameters()} if text is not None else set()
        return sum(t.untyped_storage().nbytes() for k, t in held.items() if k not in left_out), peak.most

    return bytes_of
