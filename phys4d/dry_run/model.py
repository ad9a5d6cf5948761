"""The model of a run, from configurations alone, as a stage finds it."""

from dataclasses import dataclass, field
from typing import Any

import torch

from phys4d.engine.errors import UserError
from phys4d.models.base_weights import hold_frozen_in_bf16
from phys4d.models.card import CARD, base_of, read_card
from phys4d.models.config import ModelConfig
from phys4d.models.interface import Grid, check_size
from phys4d.models.registry import MODELS, published
from phys4d.models.spec import Bare, ModelSpec, Published, default_shift
from phys4d.models.world import WorldModel
from phys4d.stages.registry import STAGES
from phys4d.stages.run_file import RunConfig


@dataclass(frozen=True)
class Source:
    """What a run starts from. config: its table [model]; bare: builds the parts; codec: what evaluations of the codec
    cost by their inputs' shapes, kept since they cost the same in every stage."""

    config: ModelConfig
    bare: Bare
    codec: dict[Any, Any] = field(default_factory=dict)


def source_of(config: RunConfig, name: str | None) -> Source:
    """From the folder `init` of a run file, of which configurations are read and no weights, or, with the name of a
    published model, from what is known of that. UserError where there is neither."""

    def source(spec: ModelSpec, table: ModelConfig, given: Published) -> Source:
        if spec.bare is None:
            raise UserError(f'model.kind: what a run of "{spec.kind}" takes cannot be counted: its SPEC has no `bare`')
        return Source(table, spec.bare(table, given))

    if name is not None:
        known = {released: spec for spec in published() for released in spec.released}
        if name not in known:
            raise UserError(f"--model {name}: expected {', '.join(sorted(known))}")
        if known[name].kind != config.model.kind:
            raise UserError(f'--model {name}: is of the kind "{known[name].kind}": set model.kind to that')
        return source(known[name], config.model, name)
    spec, table, folder = MODELS[config.model.kind], config.model, config.init
    if folder is not None and (folder / CARD).exists():
        card = read_card(folder)
        spec, table, folder = MODELS[card.model.kind], card.model, base_of(card, folder)
    if folder is None and spec.create is None:
        names = " or ".join(spec.released)
        raise UserError(f"init: names no folder: name one, or the published model: --model {names}")
    if folder is not None and not (folder / "transformer" / "config.json").is_file():
        raise UserError(f"init: {folder} holds no transformer/config.json: copy the configurations, or name a --model")
    return source(spec, table, folder)


def fewer_blocks(source: Source, layers: int) -> tuple[int, ...]:
    """Taps of the same model with fewer blocks: the last block where it is tapped, and else from the first on."""
    taps = source.config.taps
    last = source.bare.layers - 1
    return tuple(layers - 1 if tap == last else place for place, tap in enumerate(sorted(taps)))


def stage_model(config: RunConfig, stage: str, source: Source, size: tuple[int, int, int], layers: int) -> WorldModel:
    """The model of a stage with so many blocks, adapted as by this stage and those before it in the run file, not yet
    sharded; the backbone has no values, the trained weights their initial ones. UserError for a size that it does not
    take.

    config, source: of the run. size: (frames, height, width) of a clip. layers: number of blocks.
    """
    bare = source.bare
    taps = source.config.taps if layers == bare.layers else fewer_blocks(source, layers)
    try:
        bare.check_size(size)
        check_size(size, bare.token_stride)
    except ValueError as error:
        raise UserError(f"clips of {error}") from None
    resolved = source.config.resolved(bare.steps, default_shift(bare, size))
    with torch.random.fork_rng(devices=[]):
        parts = bare.build(layers, taps, config.seed)
        model = WorldModel(resolved, Grid(*size, bare.token_stride), parts, config.seed).requires_grad_(False)
    model.backbone.precision = config.precision
    for name in config.stages[: config.stages.index(stage) + 1]:
        STAGES[name].objective.prepare(model, config.table(name), config.seed)
    return model


def hold_in_bf16(model: WorldModel) -> None:
    """Dtypes of the backbone, as `models.placement.place` sets them."""
    backbone = model.backbone
    if backbone.precision == "bf16":
        hold_frozen_in_bf16(backbone.transformer, backbone.full_precision)
