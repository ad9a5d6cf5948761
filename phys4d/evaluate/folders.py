"""Evaluations of model folders, and the files that they leave in a run folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phys4d.caches.lookup import CacheMode, find_cache
from phys4d.caches.source import Source
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.storage import replace_text
from phys4d.evaluate.results import Evaluation, finished, read_table, record_digests, write_arrays
from phys4d.evaluate.run import evaluate
from phys4d.evaluate.scenes import EvaluateConfig
from phys4d.models import folder as model_folder


def _of_folder(
    folder: Path, config: EvaluateConfig, parallel: Parallel, mode: CacheMode, scenes: Sequence[int] | None = None
) -> Evaluation | None:
    loaded = on_all_ranks(lambda: model_folder.load(folder))
    source = Source(loaded.model.config.kind, loaded.base)
    cache = on_all_ranks(lambda: find_cache(config.data, config.latents, mode, source))
    title = loaded.stage if scenes is None else f"{loaded.stage}, lowest rewards"
    return evaluate(loaded.model, config, title, parallel, scenes, cache)


def evaluate_folder(folder: Path, config: EvaluateConfig, parallel: Parallel) -> dict[str, Any] | None:
    """The table of the model in a folder, on rank 0; None on other ranks."""
    result = _of_folder(folder, config, parallel, "auto")
    return None if result is None else result.table()


def evaluate_stage(
    folder: Path, config: EvaluateConfig, out: Path, stage: str, parallel: Parallel, mode: CacheMode
) -> bool:
    """Evaluates a stage's model and writes truth.npz, <stage>.npz and <stage>.json; False if that was done before.

    folder: model folder of the stage.
    config: settings.
    out: folder of the results.
    stage: name of the stage.
    parallel: ranks and device.
    mode: `cache` of the run file.

    Raises UserError if earlier results are damaged.
    """
    if parallel.any(on_all_ranks(lambda: f"{stage}.json" in finished(out))):
        return False
    result = _of_folder(folder, config, parallel, mode)

    def write() -> None:
        assert result is not None
        write_arrays(result, out, stage)
        replace_text(out / f"{stage}.json", json.dumps(result.table(), indent=1) + "\n")
        record_digests(out)  # last: it says that the stage was measured

    parallel.on_rank_zero(write)
    return True


def evaluate_ranked(
    folders: Mapping[str, Path], config: EvaluateConfig, out: Path, parallel: Parallel, mode: CacheMode
) -> None:
    """Keeps the arrays of the best, the median and the worst scenes, for every stage, in out/ranked/.

    The mean reward of the last stage's clips, in out/<stage>.json, selects the scenes (`ranked_scenes`). The same noise
    gives the same clips again.

    folders: stage -> model folder, in the order of training.
    config: settings.
    out: folder of the results.
    parallel: ranks and device.
    mode: `cache` of the run file.
    """
    rewards = on_all_ranks(lambda: read_table(out, list(folders)[-1]))["scenes"]["reward"]
    chosen = ranked_scenes(rewards, config.ranked)
    for stage, folder in folders.items() if chosen else ():
        _keep_ranked(folder, config, out / "ranked", stage, list(chosen), parallel, mode)


def ranked_scenes(rewards: Sequence[float | None], count: int) -> dict[int, str]:
    """Scene -> "best", "median" or "worst": `count` each, fewer where the scenes do not suffice; none twice.

    rewards: of every scene, None where there is none; equal ones are ranked by the scene's number.
    """
    order = sorted((s for s, reward in enumerate(rewards) if reward is not None), key=lambda s: (-(rewards[s] or 0), s))
    worst = order[::-1][:count]
    left = order[: len(order) - len(worst)]
    best, left = left[:count], left[count:]
    start = max((len(left) - count) // 2, 0)
    middle = left[start : start + count]
    return {s: name for name, some in (("best", best), ("median", middle), ("worst", worst)) for s in some}


def _keep_ranked(
    folder: Path, config: EvaluateConfig, out: Path, stage: str, scenes: list[int], parallel: Parallel, mode: CacheMode
) -> None:
    once = config.model_copy(update={"samples": 1})  # the arrays are those of the first
    result = _of_folder(folder, once, parallel, mode, scenes)

    def write() -> None:
        assert result is not None
        write_arrays(result, out, stage)
        record_digests(out)

    parallel.on_rank_zero(write)
