"""What can be refused of a run before anything starts, by content: its model's files, and its data's clips.

The same checks stand before training and behind `--dry-run`. No weight is read and, but for one clip of each dataset,
no video decoded.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from phys4d.clips import TRUTH
from phys4d.engine.data.dataset import ClipDataset
from phys4d.engine.errors import UserError
from phys4d.engine.schedule import check_order
from phys4d.models.backbone import TINY_PATCH
from phys4d.models.card import CARD, read_card
from phys4d.models.haar import HaarCodec
from phys4d.models.interface import check_size
from phys4d.models.preflight import check_model, check_taps
from phys4d.models.published import check_released, token_stride
from phys4d.models.text import WordEncoder
from phys4d.models.world import ModelConfig
from phys4d.stages.registry import STAGES
from phys4d.stages.run_file import RunConfig
from phys4d.stages.spec import NEW, RELEASED

EVALUATED = (*TRUTH, "instance")
_EVERY = 10_000  # clips; each costs a read, a millisecond on a network disk


@dataclass(frozen=True)
class Use:
    """A dataset that a run reads: its folder, the arrays that every clip must have, how many clips at least, and
    whether its cameras must stand still."""

    data: Path
    arrays: Collection[str]
    clips: int = 1
    static_camera: bool = False


def check(config: RunConfig, world_size: int = 1) -> None:
    """Everything about a run that can be refused before it starts. UserError with one line."""
    check_stages(config, world_size)
    for stage in config.stages:
        model = config.output(stage)
        # os.path: a run folder that may not be looked into is for Run.create to refuse.
        if os.path.islink(model) or (os.path.exists(model) and not (model / CARD).is_file()):
            raise UserError(f"{model}: is a link, or no model folder, and {stage} writes its model there: remove it")
    uses = {}
    for stage in config.stages:
        table, spec = config.table(stage), STAGES[stage]
        uses[f"{stage}.data"] = Use(table.data, spec.arrays(table), static_camera=spec.static_camera)
    if config.evaluate is not None:
        uses["evaluate.data"] = Use(config.evaluate.data, EVALUATED, config.evaluate.scenes)
    check_data(uses, config.init)


def check_stages(config: RunConfig, world_size: int = 1) -> None:
    """What `check` can refuse without the data: stages that do not follow each other or that ranks cannot share."""
    for stage in config.stages:
        if config.table(stage) is None:
            raise UserError(f"{stage}: missing: stages names {stage!r}, so the run file needs a table [{stage}]")
    start = check_start(config.model, config.init)
    check_order(config.stages, {name: spec.takes for name, spec in STAGES.items()}, start)
    for stage in config.stages:
        for name in STAGES[stage].divided:
            share = getattr(config.table(stage), name)
            if share % world_size:
                raise UserError(
                    f"{stage}.{name}: {share} does not divide over {world_size} processes: "
                    f"choose a multiple of {world_size}, or fewer processes"
                )


def check_data(uses: Mapping[str, Use], init: Path | None) -> None:
    """Looks at every dataset that a run reads; keys of `uses` are those of the run file. UserError with one line.

    Every clip is looked at as far as that needs no decoding, of more than ten thousand the first and the last in each
    shard; the first one of each dataset is decoded. What is found later costs no finished step. init: the model that
    the run starts from (None: the tiny one), which decides on the size of clips.
    """
    expected: tuple[int, int, int] | None = None
    if init is not None and (init / CARD).exists():
        expected = read_card(init).size
    for key, use in uses.items():
        if not (use.data / "index.parquet").is_file():
            raise UserError(f"{key}: {use.data} holds no index.parquet: simulate or label a dataset there first")
        dataset = ClipDataset(use.data, arrays=use.arrays)
        size = dataset.size()
        if expected is None:
            check_takes(key, use.data, size, init)
            expected = size
        if size != expected:
            raise UserError(
                f"{key}: {use.data}: clips of {_shown(size)}, the run takes {_shown(expected)}: simulate at that size"
            )
        if len(dataset) < use.clips:
            raise UserError(f"{key}: {use.data}: {len(dataset)} clips, {use.clips} are asked for: simulate more")
    words = WordEncoder() if init is None or _is_tiny(init) else None
    for data in dict.fromkeys(use.data for use in uses.values()):
        _check_clips({key: use for key, use in uses.items() if use.data == data}, words)


def _check_clips(uses: Mapping[str, Use], words: WordEncoder | None) -> None:
    """Looks at the clips of the one dataset of these uses. words: the text encoder that limits captions, if any."""
    key, use = next(iter(uses.items()))
    still = next((key for key, use in uses.items() if use.static_camera), None)
    dataset = ClipDataset(use.data, arrays={name for use in uses.values() for name in use.arrays})
    dataset[0]
    for index in range(len(dataset)) if len(dataset) <= _EVERY else dataset.shard_edges():
        meta = dataset.probe(index)
        where = f"{use.data}: clip {dataset.row(index)['key']}"
        if missing := [name for name in ("caption", "intrinsics") if name not in meta]:
            raise UserError(f"{key}: {where}: json has no {', '.join(missing)}")
        try:
            if words is not None:
                words.words(meta["caption"])
        except ValueError as error:
            raise UserError(f"{key}: {where}: {error}: shorten it") from None
        poses = meta.get("camera_to_world", [])
        if still is not None and any(pose != poses[0] for pose in poses):
            raise UserError(
                f"{still}: {where}: its camera moves, and the reward is of what changed since the first frame: "
                "simulate with a static camera"
            )


def _is_tiny(init: Path) -> bool:
    return (init / CARD).exists() and read_card(init).model.kind == "tiny"


def check_start(model: ModelConfig, init: Path | None) -> str:
    """Looks at the model that a run starts from (None: the tiny one, made anew), and returns the stage that wrote it:
    NEW for none, RELEASED for a diffusers folder. UserError with one line; model: as in the run file."""
    if init is None:
        if model.kind != "tiny":
            raise UserError(f'model.kind: "{model.kind}" without init: name the folder of the released model as init')
        if max(model.taps) >= model.layers:
            raise UserError(f"model.taps: {list(model.taps)}: the transformer has blocks 0 to {model.layers - 1}")
        return NEW
    if (init / CARD).exists():
        check_model(init)
        return read_card(init).stage
    published = check_released(init)
    if model.kind != "wan":
        raise UserError(f'model.kind: "{model.kind}", but {init} is a released Wan model: set model.kind = "wan"')
    check_taps(model.taps, published.transformer, "model.taps")
    return RELEASED


def check_takes(key: str, where: object, size: tuple[int, int, int], init: Path | None) -> None:
    """UserError unless the model that a run starts from takes clips of (frames, height, width); key, where: blamed."""
    try:
        check_size(size, _stride(init))
    except ValueError as error:
        raise UserError(f"{key}: {where}: clips of {error}") from None


def _stride(init: Path | None) -> tuple[int, int, int]:
    """Frames, rows and columns of pixels under one token of the tiny model (None) or of a released one."""
    if init is not None:
        return token_stride(init)
    t, h, w = TINY_PATCH
    return HaarCodec.temporal_stride * t, HaarCodec.spatial_stride * h, HaarCodec.spatial_stride * w


def _shown(size: tuple[int, int, int]) -> str:
    return f"{size[0]} frames of {size[1]}x{size[2]} pixels"
