"""The 4D suite for models: clips generated from first frames of true ones, and geometry read off the true videos."""

import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from phys4d.caches.lookup import find_cache
from phys4d.caches.source import Source
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.evaluate.consistency.clip import ClipFigures, clip_figures
from phys4d.evaluate.consistency.predictions import check_truth
from phys4d.evaluate.consistency.table import Scored, summary
from phys4d.evaluate.run import generated
from phys4d.evaluate.scenes import EvaluateConfig, Scenes, in_batches, prepare
from phys4d.models import folder as model_folder
from phys4d.models.card import CARD
from phys4d.models.world import Geometry, WorldModel

_RUN = "config.toml"


def is_model(path: Path) -> bool:
    """Whether a path is a run folder or a model folder."""
    return (path / _RUN).is_file() or (path / CARD).is_file()


def model_folders(paths: Sequence[Path]) -> dict[str, Path]:
    """Row -> model folder: of a run folder the models of its stages, in their order; else itself, by its name.

    Raises UserError for a run without a finished stage, and for two rows of one name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        stages = tomllib.loads((path / _RUN).read_text())["stages"] if (path / _RUN).is_file() else None
        if stages is None:
            rows = {path.resolve().name.removeprefix("model-"): path}
        else:
            every = {stage: path / f"model-{stage}" for stage in stages}
            rows = {stage: folder for stage, folder in every.items() if (folder / CARD).is_file()}
            if not rows:
                raise UserError(f"{path}: has no finished stage: expected model folders such as model-{stages[0]}")
        if taken := sorted(rows.keys() & found.keys()):
            raise UserError(f"{path}: a row {taken[0]} is there already, of {found[taken[0]]}: name one of the two")
        found |= rows
    return found


@torch.no_grad()
def score_models(
    folders: Mapping[str, Path], config: EvaluateConfig, parallel: Parallel
) -> dict[str, dict[str, Any]] | None:
    """Scores models; the ranks share the scenes. On rank 0 two rows for each, ROW of generated clips, whose figures are
    means over the samples, and ROW-reads of true videos: name -> `table.summary`. None on other ranks.

    folders: row -> model folder. config: settings. parallel: ranks and device.

    Raises UserError as `run.evaluate` does.
    """
    rows: dict[str, dict[str, Any]] = {}
    for row, folder in folders.items():
        rows |= _score_model(row, folder, config, parallel)
    return rows if parallel.rank == 0 else None


def _score_model(row: str, folder: Path, config: EvaluateConfig, parallel: Parallel) -> dict[str, dict[str, Any]]:
    """Both rows of a model on rank 0; {} elsewhere."""
    loaded = on_all_ranks(lambda: model_folder.load(folder))
    source = Source(loaded.model.config.kind, loaded.base)
    cache = on_all_ranks(lambda: find_cache(config.data, config.latents, "auto", source))
    scenes = prepare(loaded.model, config, parallel, None, cache)

    def measure(some: list[int]) -> list[tuple[Scored, Scored]]:
        return _measure(loaded.model, config, scenes, some, parallel)

    parts = in_batches(loaded.model, scenes, config.batch, row, parallel, measure)
    if parts is None:
        return {}
    made, read = zip(*(pair for part in parts for pair in part), strict=True)
    return {row: summary(made), f"{row}-reads": summary(read)}


def _measure(
    model: WorldModel, config: EvaluateConfig, scenes: Scenes, some: list[int], parallel: Parallel
) -> list[tuple[Scored, Scored]]:
    """Each scene of a batch as generated, and as read from its true video."""
    keys: list[tuple[int | str, ...]] = [(config.seed, "evaluate", scene) for scene in some]
    batch = on_all_ranks(lambda: scenes.clips.collate(some, keys, parallel.device))
    clean = batch.encoded(model.codec)
    first = batch.first(model.codec, clean)
    read = model.read_geometry(clean, batch.text, batch.normal_like(clean, "probe"), first=first)
    samples = [generated(model, batch, first, clean, sample)[1] for sample in range(config.samples)]
    truth = {name: array.cpu().numpy() for name, array in batch.arrays.items()}
    pairs = []
    for i, scene in enumerate(some):
        meta, key = scenes.clips.sample(scene).meta, scenes.clips.sample(scene).key
        check_truth(truth["depth"][i].shape, meta, f"{config.data}, clip {key}")
        own = {name: array[i] for name, array in truth.items()}
        made = [clip_figures(predicted(geometry, i), own, meta) for geometry in samples]
        seen = clip_figures(predicted(read, i), own, meta)
        category = meta.get("category", "")
        pairs.append((Scored(key, category, mean_figures(made)), Scored(key, category, seen)))
    return pairs


def predicted(geometry: Geometry, clip: int) -> dict[str, np.ndarray]:
    """depth [T, H, W] and motion [3, T-1, H, W] of one clip of a batch."""
    return {name: getattr(geometry, name)[clip].float().cpu().numpy() for name in ("depth", "motion")}


def mean_figures(samples: Sequence[ClipFigures]) -> ClipFigures:
    """The means over samples of one clip, of those that have the figure; NaN where none has it."""
    values = {name: _mean([one.values[name] for one in samples]) for name in samples[0].values}
    curves = {
        name: [_mean(frame) for frame in zip(*(one.curves[name] for one in samples), strict=True)]
        for name in samples[0].curves
    }
    return ClipFigures(values, curves)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan

