"""Stages that a resumed run begins again, or trains longer: their earlier results are set aside, not removed."""

import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from phys4d.engine import checkpoint
from phys4d.engine.errors import UserError, printable
from phys4d.engine.run_folder.clock import forget, stage_seconds
from phys4d.engine.run_folder.metrics import read_metrics
from phys4d.engine.storage import replace_text
from phys4d.engine.training.length import LENGTHS, in_steps
from phys4d.evaluate.results import forget_results
from phys4d.stages.handover import begun
from phys4d.stages.registry import STAGES
from phys4d.stages.run_file import RunConfig, stored_values

_ABOUT_ALL = ("summary.json", "report.html", "evaluation/ranked")


class Again(NamedTuple):
    """The stages of a run that are not left as they are.

    anew: begin from their start, again or because the run had no such stage before.
    longer: are finished and go on from their last checkpoint, since their length was raised.
    """

    anew: tuple[str, ...] = ()
    longer: tuple[str, ...] = ()

    def __contains__(self, stage: object) -> bool:
        return stage in self.anew or stage in self.longer


def again(config: RunConfig, rerun: str | None) -> Again:
    """Which stages of a run that is resumed begin again or go on beyond their end.

    config: of this session.
    rerun: the stage that begins again, and with it all behind it, which started from its model; None for none.

    Raises UserError if the run has no such stage, if stages that it had are missing, or if a stage would go on beyond
    its end though a later one has begun from its model.
    """
    if rerun is not None and rerun not in config.stages:
        raise UserError(f"--rerun {rerun}: the run has no such stage, it has {', '.join(config.stages)}")
    stored = stored_values(config.folder)
    before = stored["stages"] if isinstance(stored.get("stages"), list) else config.stages
    if missing := [stage for stage in before if stage not in config.stages]:
        raise UserError(
            f"stages: {config.folder} has the stage {missing[0]!r}, too: name it, or start a new folder with init"
        )
    first = config.stages.index(rerun) if rerun is not None else len(config.stages)
    added = {stage for stage in config.stages if stage not in before and not begun(config, stage)}
    anew = tuple(stage for place, stage in enumerate(config.stages) if place >= first or stage in added)
    longer = tuple(stage for stage in config.stages if stage not in anew and _goes_on(config, stage, stored))
    for stage in longer:
        later = config.stages[config.stages.index(stage) + 1 :]
        if taken := next((one for one in later if one not in anew and begun(config, one)), None):
            raise UserError(
                f"{stage}.loop: {stage} would go on from its last checkpoint, and {taken} has begun from the model "
                f"that it wrote: set its length back, or add --rerun {taken}"
            )
    return Again(anew, longer)


def _goes_on(config: RunConfig, stage: str, stored: dict[str, Any]) -> bool:
    """Whether a stage is finished, and has another length than in the stored configuration, which is not reached."""
    table = config.table(stage)
    now = {name: getattr(table.loop, name) for name in LENGTHS}
    then = stored.get(stage)
    loop = then.get("loop") if isinstance(then, dict) else None
    same = not isinstance(loop, dict) or now == {name: loop.get(name) for name in LENGTHS}
    last = checkpoint.latest(config.folder, stage)
    if same or last is None or not os.path.exists(config.output(stage)):
        return False
    steps = in_steps(table.loop, STAGES[stage].samples(table)).steps
    if steps is not None:
        return last[1] < steps
    return stage_seconds(config.folder / "clock.json").get(stage, 0.0) < 3600 * table.loop.hours


def set_aside(config: RunConfig, stages: Again) -> None:
    """Moves what the run folder holds of stages that begin again to a new folder `set-aside-<n>` in it, and the models
    and results of those that go on; one line on standard error says so.

    The last stage's files are moved first, so that after a kill in between, the folder is that of a run that has come
    less far.
    """
    folder = config.folder
    place = next(path for n in range(1, sys.maxsize) if not (path := folder / f"set-aside-{n}").exists())
    moved: list[str] = []
    for stage in reversed(config.stages):
        if stage in stages:
            moved += _move(_results(config, stage), folder, place)
        if stage in stages.anew:
            moved += _move(_progress(folder, stage), folder, place)
    if stages.anew:
        forget(folder / "clock.json", stages.anew)
        _move_lines(folder / "metrics.jsonl", place, stages.anew)
        _point_latest(folder, config.stages)
    if moved:
        _move([folder / name for name in _ABOUT_ALL], folder, place)
        which = [f"{stage} goes on" for stage in stages.longer] + [f"{stage} begins again" for stage in stages.anew]
        text = f"{', '.join(which)}: {', '.join(moved)} moved to {place}: remove it if not needed"
        print(printable(text), file=sys.stderr)


def _results(config: RunConfig, stage: str) -> list[Path]:
    evaluation = config.folder / "evaluation"
    forget_results(evaluation, stage)
    return [*(evaluation / f"{stage}.{suffix}" for suffix in ("json", "npz")), config.output(stage)]


def _progress(folder: Path, stage: str) -> list[Path]:
    """Checkpoints, newest first, and TensorBoard's events."""
    found = {path: re.fullmatch(rf"checkpoint-{re.escape(stage)}-(\d+)", path.name) for path in folder.iterdir()}
    steps = sorted((int(match[1]), path) for path, match in found.items() if match)
    return [*(path for _, path in reversed(steps)), folder / "tensorboard" / stage]


def _move(paths: Iterable[Path], folder: Path, place: Path) -> list[str]:
    """Moves what is there of some paths in `folder` to the same paths in `place`; returns their names."""
    moved = []
    for path in paths:
        if path.exists():
            target = place / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(path, target)
            moved.append(str(path.relative_to(folder)))
    return moved


def _move_lines(path: Path, place: Path, stages: Iterable[str]) -> None:
    """Moves the lines of metrics.jsonl about some stages to the file of that name in `place`."""
    if not path.exists():
        return
    entries, _ = read_metrics(path)
    moved = [entry for entry in entries if entry["stage"] in stages]
    if moved:
        place.mkdir(exist_ok=True)
        replace_text(place / path.name, "".join(json.dumps(entry) + "\n" for entry in moved))
        kept = [entry for entry in entries if entry["stage"] not in stages]
        replace_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))


def _point_latest(folder: Path, stages: Iterable[str]) -> None:
    """Has the file `latest` name the newest checkpoint that is left."""
    left = [found[0].name for stage in stages if (found := checkpoint.latest(folder, stage))]
    if left:
        replace_text(folder / "latest", f"{left[-1]}\n")
    else:
        (folder / "latest").unlink(missing_ok=True)
