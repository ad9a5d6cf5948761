"""What can be refused of a run before anything starts, by content: its model's files, and its data's clips.

The same checks stand before training and behind `--dry-run`. No weight is read, and of each dataset only some clips are
decoded (`dataset_checks.WHOLE`), or all with `check_clips = "all"`.
"""

import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from phys4d.caches.lookup import find_cache
from phys4d.caches.source import Source
from phys4d.clips import TRUTH
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.data.decoders.choice import choose
from phys4d.engine.data.decoders.interface import VideoDecoder
from phys4d.engine.distributed.mesh import mesh_shape
from phys4d.engine.distributed.parallel import own_device
from phys4d.engine.distributed.strategy import check_strategy
from phys4d.engine.errors import UserError
from phys4d.engine.faults import MachineFault
from phys4d.engine.run_folder.wandb_tracker import check_wandb
from phys4d.engine.training.adam import check_adam
from phys4d.engine.training.length import check_decay
from phys4d.engine.training.optimizer import check_steps
from phys4d.engine.training.schedule import check_order
from phys4d.kernels.attention import explain
from phys4d.mixture import chosen, expect_metric
from phys4d.models.card import CARD, base_of, read_card
from phys4d.models.config import ModelConfig
from phys4d.models.division import check_division
from phys4d.models.interface import Grid, check_size
from phys4d.models.preflight import check_model, check_new, check_released
from phys4d.models.registry import MODELS
from phys4d.models.spec import Outline
from phys4d.stages.adapter import AdapterConfig, check_adapter
from phys4d.stages.data import data_of
from phys4d.stages.dataset_checks import DatasetUse, check_clips
from phys4d.stages.gates import check_gates
from phys4d.stages.registry import STAGES
from phys4d.stages.run_file import RunConfig
from phys4d.stages.spec import NEW, RELEASED

EVALUATED = (*TRUTH, "instance")


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    stage: that wrote the model, NEW or RELEASED where none did; kind: of its backbone; token_stride: frames, rows and
    columns of pixels under one token; head_shape: (heads, channels of one) of its self-attention; check_size: as of
    `Outline`; size: (frames, height, width) of its clips, None where they are not decided yet. transformer: on torch's
    meta device; blocks: their number.
    """

    stage: str
    kind: str
    token_stride: tuple[int, int, int]
    head_shape: tuple[int, int]
    check_size: Callable[[tuple[int, int, int]], object] = lambda size: None
    size: tuple[int, int, int] | None = None
    transformer: nn.Module | None = None
    blocks: int = 0


def check(config: RunConfig, world_size: int = 1) -> None:
    """Everything about a run that can be refused before it starts. UserError with one line."""
    start = check_stages(config, world_size)
    for stage in config.stages:
        model = config.output(stage)
        # os.path: a run folder that may not be looked into is for Run.create to refuse.
        if os.path.islink(model) or (os.path.exists(model) and not (model / CARD).is_file()):
            raise UserError(f"{model}: is a link, or no model folder, and {stage} writes its model there: remove it")
    uses = {}
    for stage in config.stages:
        table, spec = config.table(stage), STAGES[stage]
        still, skips = spec.static_camera(table), table.on_bad == "skip"
        for i, part in enumerate(table.data):
            key = f"{stage}.data" if len(table.data) == 1 else f"{stage}.data.{i}"
            uses[key] = DatasetUse(
                part.folder, spec.arrays(table), 0, still, skips, table.max_bad, part.where,
                affine_depth=spec.objective.affine_depth,
            )  # fmt: skip
    if config.evaluate is not None:
        skips = config.evaluate.on_bad == "skip"
        uses["evaluate.data"] = DatasetUse(config.evaluate.data, EVALUATED, config.evaluate.scenes, skips=skips)
    decoder = None if config.decoder == "auto" else choose(config.decoder, own_device(0, 0))
    sizes = check_data(uses, start, every=config.check_clips == "all", decoder=decoder)
    for size in sizes:
        _check_attention(config, start, size)
    _check_caches(config, start)


def check_stages(config: RunConfig, world_size: int = 1) -> Start:
    """What `check` can refuse without the data: the model that the run starts from, and stages that do not follow each
    other, that ranks cannot share, or whose length or gate cannot be."""
    check_wandb(config.log)
    check_strategy(config.parallel)
    for stage in config.stages:
        if config.table(stage) is None:
            raise UserError(f"{stage}: missing: stages names {stage!r}, so the run file needs a table [{stage}]")
        check_adam(config.table(stage).optimizer.adam, own_device(0, 0), f"{stage}.optimizer.adam")
        check_steps(config.table(stage).optimizer, config.parallel, f"{stage}.optimizer")
        check_decay(stage, config.table(stage).loop, config.table(stage).optimizer.decay_fraction)
    check_gates(config)
    start = check_start(config.model, config.init)
    for stage in config.stages:
        if isinstance(table := config.table(stage), AdapterConfig) and start.transformer is not None:
            check_adapter(stage, table, start.transformer, start.blocks)
    check_order(config.stages, {name: spec.takes for name, spec in STAGES.items()}, start.stage)
    check_divided(config, world_size)
    return start


def check_divided(config: RunConfig, world_size: int) -> None:
    """UserError unless so many processes can share the work of every stage."""
    parts = mesh_shape(config.parallel, world_size).data
    for stage in config.stages:
        for name in STAGES[stage].divided:
            share = getattr(config.table(stage), name)
            if share % parts:
                over = f"{parts} processes" if parts == world_size else f"replicate x shard = {parts}"
                raise UserError(
                    f"{stage}.{name}: {share} does not divide over {over}: choose a multiple of {parts}, "
                    "or fewer processes"
                )


def check_data(
    uses: Mapping[str, DatasetUse], start: Start, *, every: bool = False, decoder: VideoDecoder | None = None
) -> list[tuple[int, int, int]]:
    """Looks at every dataset that a run reads, and returns the sizes (frames, height, width) of its clips; keys of
    `uses` are those of the run file, `start` is what it starts from. UserError with one line.

    Every clip is looked at as far as that needs no decoding, of more than ten thousand the first and the last in each
    shard; some are decoded (`dataset_checks`), with `every` all. What is found later costs no finished step.
    decoder: the one that the run file names, None if it names none.
    """
    trained_on: dict[tuple[int, int, int], None] = {} if start.size is None else {start.size: None}
    for key, use in uses.items():
        if isinstance(use.data, Path) and not (use.data / "index.parquet").is_file():
            raise UserError(f"{key}: {use.data} holds no index.parquet: simulate or label a dataset there first")
        dataset = ClipDataset(use.data, arrays=use.arrays)
        some = chosen(dataset, use.where)
        if "depth" in use.arrays and not use.affine_depth:
            _check_metric(key, dataset, some)
        sizes = dataset.sizes(some)
        for size in sizes:
            check_clip_size(key, use.data, size, start)
        if use.scenes:
            _check_evaluated(key, use, dataset, sizes, start.size or max(trained_on, key=math.prod))
        else:
            trained_on |= dict.fromkeys(sizes)
    for data in dict.fromkeys(use.data for use in uses.values()):
        same = {key: use for key, use in uses.items() if use.data == data}
        trained = any(not use.scenes for use in same.values())  # an evaluation always uses PyAV
        check_clips(same, MODELS[start.kind].check_caption, every=every, decoder=decoder if trained else None)
    return list(trained_on)


def _check_metric(key: str, dataset: ClipDataset, some: np.ndarray) -> None:
    try:
        expect_metric(dataset, some)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _check_evaluated(
    key: str, use: DatasetUse, dataset: ClipDataset, sizes: Collection[tuple[int, int, int]],
    expected: tuple[int, int, int],
) -> None:  # fmt: skip
    """UserError unless a dataset has enough clips to evaluate a model of this size on, all of it."""
    if other := [size for size in sizes if size != expected]:
        raise UserError(
            f"{key}: {use.data}: clips of {_shown(other[0])}, the run takes {_shown(expected)}: simulate at that size"
        )
    if len(dataset) < use.scenes:
        raise UserError(f"{key}: {use.data}: {len(dataset)} clips, {use.scenes} are asked for: simulate more")


def check_start(model: ModelConfig, init: Path | None) -> Start:
    """Looks at the model that a run starts from without reading weights. UserError with one line; model, init: as in
    the run file, None for a new model."""
    if init is not None and (init / CARD).exists():
        outline = check_model(init)
        card = read_card(init)
        stage, kind, size = card.stage, card.model.kind, card.size
    else:
        outline = check_new(model) if init is None else check_released(init, model)
        stage, kind, size = NEW if init is None else RELEASED, model.kind, None
    return Start(
        stage, kind, outline.token_stride, _head_shape(outline), outline.check_size, size, outline.transformer,
        outline.layers,
    )  # fmt: skip


def _head_shape(outline: Outline) -> tuple[int, int]:
    return outline.heads, outline.width // outline.heads


def _check_caches(config: RunConfig, start: Start) -> None:
    """UserError for a cache of other clips or another model than the run has, where clips are without one for a text
    encoder without weights, and where the tokens of an empty caption are needed that a cache lacks."""
    base = config.init
    if base is not None and (base / CARD).exists():
        base = base_of(read_card(base), base)
    source, cached = Source(start.kind, base), True
    for name in (*config.stages, *(() if config.evaluate is None else ("evaluate",))):
        table = config.table(name)
        try:
            found = [find_cache(part.folder, part.latents, config.cache, source) for part in data_of(table)]
        except MachineFault:
            raise
        except UserError as error:
            raise UserError(f"{name}.latents: {error}") from None
        cached &= None not in found
        for key, off in (("caption_dropout", 0), ("guidance", 1)):
            value = getattr(table, key, off)
            cache = None if None in found else found[0]
            if value == off or cache is None or MODELS[start.kind].learned_no_caption:
                continue
            if cache.no_caption() is None:
                raise UserError(
                    f"{name}.{key}: {value:g}: {cache.folder}, of an earlier version, lacks the tokens of an empty "
                    f"caption: remove it and write it again, or set {key} to {off}"
                )
    if not cached:
        source.check()


def _check_attention(config: RunConfig, start: Start, size: tuple[int, int, int]) -> None:
    """UserError unless the backend asked for can compute the self-attention of clips of this size on this machine, and
    so many ranks can divide their tokens."""
    heads, channels = start.head_shape
    tokens = Grid(*size, start.token_stride).tokens
    check_division(config.parallel, heads, tokens, MODELS[start.kind].divides_frames)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    head = torch.empty(channels, dtype=dtype, device=own_device(0, 0), requires_grad=True)
    q = head.expand(1, math.prod(tokens), heads, channels)
    try:
        explain(q, q, q, backend=config.model.attention)
    except ValueError as error:
        raise UserError(f'model.attention: {error}: set another, or "auto"') from None


def check_clip_size(key: str, where: object, size: tuple[int, int, int], start: Start) -> None:
    """UserError unless the model in `start` takes clips of this size, (frames, height, width); key, where: the key of
    the run file and the dataset, for the message."""
    try:
        start.check_size(size)
        check_size(size, start.token_stride)
    except ValueError as error:
        raise UserError(f"{key}: {where}: clips of {error}") from None


def _shown(size: tuple[int, int, int]) -> str:
    return f"{size[0]} frames of {size[1]}x{size[2]} pixels"
