"""`phys4d demo`: simulate, label, train through all stages, evaluate and report, on the machine at hand."""

import os
import re
import time
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from phys4d.engine.config import Config, load_toml
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.engine.output import check_folder
from phys4d.engine.signals import keeps
from phys4d.kernels import native
from phys4d.simulation.generate import SimulateConfig, simulate
from phys4d.stages.preflight import check, check_clip_size, check_stages
from phys4d.stages.registry import STAGES
from phys4d.stages.resume import Resume, open_run
from phys4d.stages.run_file import RunConfig
from phys4d.teachers.dis import DISFlow
from phys4d.teachers.label import label_dataset
from phys4d.teachers.small_depth import SmallDepth, SmallDepthConfig
from phys4d.train import run_stages


class Datasets(Config):
    """What is simulated: `train` with truth; `video`, without truth, to be pseudo-labelled; `scenes`, with truth, for
    the depth teacher alone; `test`, held out."""

    train: SimulateConfig
    video: SimulateConfig
    scenes: SimulateConfig
    test: SimulateConfig


class DemoConfig(Config):
    """A demo recipe. Paths in `run` are relative to the demo's folder."""

    workers: int = 2
    simulate: Datasets
    teacher: SmallDepthConfig
    run: RunConfig


def run_demo(folder: Path, recipe: Path | None, overrides: Sequence[str], *, resume: Resume | None) -> None:
    """Everything, into `folder`: data/, the run folder's own files, report.html. With resume, what is whole is kept."""
    started = time.monotonic()
    config = load_recipe(recipe, overrides)
    begun = (folder / "config.toml").exists()
    if begun and resume is None:
        raise UserError(f"{folder}: holds a demo already: add --resume to continue it, or name another --folder")
    run_config = placed(config.run, folder)
    start = check_stages(run_config)
    for name in Datasets.model_fields:
        made = getattr(config.simulate, name)
        check_clip_size(f"simulate.{name}", "the recipe", (made.frames, *made.size), start)
    check_folder(folder)
    available, reason = native.status()
    print(f"native kernels: {'built' if available else f'not built ({reason}); Chamfer uses the PyTorch reference'}")
    keeps(f"{folder}: finished clips and datasets are kept: the same command goes on from there")
    make_data(config, folder / "data")
    check(run_config)
    with (
        Parallel.start(run_config.timeouts) as parallel,
        open_run(run_config, resume=resume if begun else None, since=started) as run,
    ):
        run_stages(run_config, run, parallel, resume=resume is not None)


def make_data(config: DemoConfig, folder: Path) -> None:
    """Simulates and labels what is not there yet."""
    for name in Datasets.model_fields:
        if not (folder / name / "index.parquet").exists():
            simulate(getattr(config.simulate, name), folder / name, workers=config.workers)
    if not (folder / "labelled" / "index.parquet").exists():
        depth_teacher, workers = SmallDepth(config.teacher, folder / "scenes"), len(os.sched_getaffinity(0))
        label_dataset(folder / "video", folder / "labelled", depth_teacher, DISFlow(), workers=workers)


def load_recipe(recipe: Path | None, overrides: Sequence[str]) -> DemoConfig:
    """A recipe: of a file, or of the name of one that comes with phys4d, "demo" for None; every key can be overridden.

    Messages name keys of the run as a run file has them, without "run." before them: overrides may too.
    """
    keys = RunConfig.model_fields.keys() - DemoConfig.model_fields.keys()
    overrides = [f"run.{one}" if re.split(r"[.=]", one)[0].strip() in keys else one for one in overrides]
    packaged = files("phys4d.recipes") / f"{'demo' if recipe is None else recipe.name}.toml"
    if recipe is not None and not (str(recipe) == recipe.name and packaged.is_file()):
        return load_toml(recipe, DemoConfig, overrides)
    with as_file(packaged) as path:
        return load_toml(path, DemoConfig, overrides)


def placed(run: RunConfig, folder: Path) -> RunConfig:
    """The run with its folder and its data below `folder`."""

    def below(value: Any) -> Any:
        if value is None or not isinstance(value.data, tuple):
            return None if value is None else value.model_copy(update={"data": folder / value.data})
        parts = tuple(part.model_copy(update={"folder": folder / part.folder}) for part in value.data)
        return value.model_copy(update={"data": parts})

    tables = (*STAGES, "evaluate")
    return run.model_copy(update={"folder": folder, **{name: below(run.table(name)) for name in tables}})
