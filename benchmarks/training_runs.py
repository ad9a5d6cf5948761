"""Training runs that a study needs: each runs once, and goes on after an interruption."""

from typing import Any


def finish(config: Any) -> None:
    """Runs the stages of a `RunConfig` in its folder; resumes an unfinished run, and skips a finished one."""
    from phys4d.engine.distributed.parallel import Parallel
    from phys4d.engine.run_folder.run import Run
    from phys4d.stages.preflight import check
    from phys4d.train import run_stages

    if (config.folder / "summary.json").exists():
        return
    check(config)
    resume = (config.folder / "config.toml").exists()
    with Run.create(config.folder, config, resume=resume) as run:
        run_stages(config, run, Parallel.start(), resume=resume)
