"""Evaluations of model folders, and the files that they leave in a run folder."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from phys4d.engine import integrity
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.engine.storage import replace_text
from phys4d.evaluate.results import write_arrays
from phys4d.evaluate.run import EvaluateConfig, evaluate
from phys4d.models import folder as model_folder


def evaluate_folder(folder: Path, config: EvaluateConfig, parallel: Parallel) -> dict[str, Any] | None:
    """The table of the model in a folder, on rank 0; None on other ranks."""
    loaded = on_all_ranks(lambda: model_folder.load(folder))
    result = evaluate(loaded.model, config, loaded.stage, parallel)
    return None if result is None else result.table()


def evaluate_stage(folder: Path, config: EvaluateConfig, out: Path, stage: str, parallel: Parallel) -> None:
    """Evaluates a stage's model and writes truth.npz, <stage>.npz and <stage>.json, unless that was done before.

    folder: model folder of the stage.
    config: settings.
    out: folder of the results.
    stage: name of the stage.
    parallel: ranks and device.

    Raises UserError if earlier results are damaged.
    """
    if parallel.any(on_all_ranks(lambda: f"{stage}.json" in _results(out))):
        return
    loaded = on_all_ranks(lambda: model_folder.load(folder))
    result = evaluate(loaded.model, config, stage, parallel)

    def write() -> None:
        assert result is not None
        write_arrays(result, out, stage)
        replace_text(out / f"{stage}.json", json.dumps(result.table(), indent=1) + "\n")
        _record_digests(out)  # last: it says that the stage was measured

    parallel.on_rank_zero(write)


def _record_digests(out: Path) -> None:
    """Writes the manifest of the files in a folder of results; hidden ones are what a kill left of files."""
    names = [path.name for path in out.iterdir() if path.is_file() and not path.name.startswith(".")]
    integrity.write_manifest(out, integrity.digests(out, names))


def _results(out: Path) -> Collection[str]:
    """The files of a folder of results, which are as they were written; none if the folder has no manifest."""
    if not (out / integrity.MANIFEST).exists():
        return ()
    advice = f"remove {out}, then --resume measures again"
    integrity.check(out, advice)
    return integrity.read_manifest(out, advice)


def read_table(out: Path, stage: str) -> dict[str, Any]:
    """The table of a stage that `evaluate_stage` wrote to the folder `out`. Raises UserError if it is damaged."""
    if f"{stage}.json" not in _results(out):
        raise UserError(f"{out}: holds no results of {stage}: remove it, then --resume measures again")
    table: dict[str, Any] = json.loads((out / f"{stage}.json").read_bytes())
    return table


def evaluate_failures(folders: Mapping[str, Path], config: EvaluateConfig, out: Path, parallel: Parallel) -> None:
    """Keeps the arrays of the scenes with the lowest reward, for every stage, in out/failures/.

    The mean reward of the last stage's clips, in out/<stage>.json, selects the scenes. The same noise gives the same
    clips again.

    folders: stage -> model folder, in the order of training.
    config: settings.
    out: folder of the results.
    parallel: ranks and device.
    """
    rewards = on_all_ranks(lambda: read_table(out, list(folders)[-1]))["scenes"]["reward"]
    measured = [scene for scene, reward in enumerate(rewards) if reward is not None]
    worst = sorted(measured, key=lambda scene: rewards[scene])[: config.failures]
    for stage, folder in folders.items() if worst else ():
        _keep_failures(folder, config, out / "failures", stage, worst, parallel)


def _keep_failures(
    folder: Path, config: EvaluateConfig, out: Path, stage: str, scenes: list[int], parallel: Parallel
) -> None:
    loaded = on_all_ranks(lambda: model_folder.load(folder))
    once = config.model_copy(update={"samples": 1})  # the arrays are those of the first
    result = evaluate(loaded.model, once, f"{stage}, lowest rewards", parallel, scenes)

    def write() -> None:
        assert result is not None
        write_arrays(result, out, stage)
        _record_digests(out)

    parallel.on_rank_zero(write)
