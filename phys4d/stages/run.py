"""A run: one validated file that names the stages, their data and their settings, and the code that carries it out."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from phys4d.clips import TRUTH, clip_size
from phys4d.engine.config import Config
from phys4d.engine.errors import UserError
from phys4d.engine.loop import train
from phys4d.engine.parallel import Parallel, together
from phys4d.engine.resume import FROM_HERE, MOVED, Movable, OnResume
from phys4d.engine.schedule import Contract, check_order, run_in_order
from phys4d.engine.telemetry import Run
from phys4d.evaluate.run import EvaluateConfig
from phys4d.models import folder as model_folder
from phys4d.models.backbone import Precision
from phys4d.models.folder import Loaded
from phys4d.models.placement import place
from phys4d.models.world import ModelConfig, create_tiny
from phys4d.stages.backbone import BackboneConfig, BackboneObjective
from phys4d.stages.finetune import FinetuneConfig, FinetuneObjective
from phys4d.stages.preflight import Use, check_data, check_start
from phys4d.stages.pretrain import PretrainConfig, PretrainObjective
from phys4d.stages.reinforce import ReinforceConfig, ReinforceObjective

EVALUATED = (*TRUTH, "instance")
MEASURED_AGAIN = OnResume("all stages are measured again", anytime=True, discards="evaluation")
StageName = Literal["backbone", "pretrain", "finetune", "reinforce"]


class RunConfig(Config):
    """A run file. `precision` is that of the transformer's matrix products; "bf16" leaves weights, gradients,
    timesteps, sigmas, RoPE tables, heads and losses in fp32. `evaluate`, where given, measures the model behind every
    stage that has heads. `init` is a model folder or a diffusers folder of Wan; a run that begins with `backbone` has
    none.

    Each stage named in `stages` has a table of its name.
    """

    folder: Movable
    stages: tuple[StageName, ...] = Field(min_length=1)
    seed: int = Field(0, ge=0)
    precision: Annotated[Precision, FROM_HERE] = "fp32"
    init: Annotated[Path | None, MOVED] = None
    model: ModelConfig = ModelConfig()
    backbone: BackboneConfig | None = None
    pretrain: PretrainConfig | None = None
    finetune: FinetuneConfig | None = None
    reinforce: ReinforceConfig | None = None
    evaluate: Annotated[EvaluateConfig | None, MEASURED_AGAIN] = None


@dataclass(frozen=True)
class Kind:
    """What makes a stage: its objective, and what it starts from."""

    objective: Any
    contract: Contract


KINDS: dict[str, Kind] = {
    "backbone": Kind(BackboneObjective, Contract(("",))),
    "pretrain": Kind(PretrainObjective, Contract(("backbone", "released"))),
    "finetune": Kind(FinetuneObjective, Contract(("pretrain",))),
    "reinforce": Kind(ReinforceObjective, Contract(("finetune",))),
}


def check(config: RunConfig, world_size: int = 1) -> None:
    """Everything about a run that can be refused before it starts. UserError with one line."""
    check_stages(config, world_size)
    for stage in config.stages:
        model = output_folder(config, stage)
        # os.path: a run folder that may not be looked into is for Run.create to refuse.
        if os.path.islink(model) or (os.path.exists(model) and not (model / model_folder.CARD).is_file()):
            raise UserError(f"{model}: is a link, or no model folder, and {stage} writes its model there: remove it")
    uses = {
        f"{s}.data": Use(getattr(config, s).data, KINDS[s].objective.arrays, static_camera=s == "reinforce")
        for s in config.stages
    }
    if config.evaluate is not None:
        uses["evaluate.data"] = Use(config.evaluate.data, EVALUATED, config.evaluate.scenes)
    check_data(uses, config.init)


def check_stages(config: RunConfig, world_size: int = 1) -> None:
    """What `check` can refuse without the data: stages that do not follow each other or that ranks cannot share."""
    for stage in config.stages:
        if getattr(config, stage) is None:
            raise UserError(f"{stage}: missing: stages names {stage!r}, so the run file needs a table [{stage}]")
    start = check_start(config.model, config.init)
    check_order(config.stages, {name: kind.contract for name, kind in KINDS.items()}, start)
    for stage in config.stages:
        for name in ("batch", "conditions", "flow_matching_batch"):
            share = getattr(getattr(config, stage), name, world_size)
            if share % world_size:
                raise UserError(
                    f"{stage}.{name}: {share} does not divide over {world_size} processes: "
                    f"choose a multiple of {world_size}, or fewer processes"
                )


def output_folder(config: RunConfig, stage: str) -> Path:
    """Where a stage writes the model it hands on."""
    return config.folder / f"model-{stage}"


def execute(config: RunConfig, run: Run, parallel: Parallel, *, resume: bool, after: Callable[[str], None]) -> None:
    """Runs the stages that have not finished, and after(stage) on all ranks behind each of them, finished or not."""

    def one(stage: str, given: Path | None) -> None:
        with run.clock.stage(stage):
            run_stage(stage, config, run, parallel, given, resume=resume)
            together(run.clock.save)

    run_in_order(config.stages, {s: output_folder(config, s) for s in config.stages}, one, config.init, after)


def run_stage(stage: str, config: RunConfig, run: Run, parallel: Parallel, given: Path | None, *, resume: bool) -> None:
    """Trains one stage from the model in `given` and writes the model it makes."""
    settings, kind = getattr(config, stage), KINDS[stage].objective
    loaded = together(lambda: _start(stage, config, given))
    loaded.model.backbone.precision = config.precision
    kind.prepare(loaded.model, settings, config.seed)
    place(loaded.model, parallel)
    objective = kind(settings, loaded.model, parallel, config.seed)
    train(objective, optimizer=settings.optimizer, loop=settings.loop, run=run, parallel=parallel, resume=resume)
    trained = {name: full_state(module) for name, module in objective.modules().items()}

    def save() -> None:
        final = loaded
        if parallel.world_size > 1:
            final = _start(stage, config, given)
            kind.prepare(final.model, settings, config.seed)
            _restore(kind(settings, final.model, parallel, config.seed).modules(), trained)
        base = None if stage == "backbone" else final.base
        model_folder.save(final.model, output_folder(config, stage), stage=stage, base=base)

    parallel.on_rank_zero(save)


def full_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """A module's whole state on the CPU; a collective where it is sharded, and then empty but on rank 0."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_model_state_dict(module, options=options)
    return state


def _start(stage: str, config: RunConfig, given: Path | None) -> Loaded:
    if given is not None and (given / model_folder.CARD).exists():
        return model_folder.load(given)
    size = clip_size(getattr(config, stage).data)
    if given is not None:
        return model_folder.released(given, config.model, size, seed=config.seed)
    return Loaded(create_tiny(config.model, *size, seed=config.seed), "", config.folder)


def _restore(modules: dict[str, nn.Module], states: dict[str, dict[str, torch.Tensor]]) -> None:
    for name, module in modules.items():
        unknown = module.load_state_dict(states[name], strict=False).unexpected_keys
        assert not unknown, unknown
