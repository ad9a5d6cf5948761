"""`phys4d train`: a run file from check to report."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from phys4d.engine.config import load_toml
from phys4d.engine.distributed.collectives import on_all_ranks
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import GateNotReached, UserError, printable
from phys4d.engine.run_folder.launch import agents, started_again
from phys4d.engine.run_folder.provenance import peak_rss_mb, provenance
from phys4d.engine.run_folder.run import Run
from phys4d.engine.run_folder.stages import Outcome
from phys4d.engine.run_folder.wandb_tracker import WeightsAndBiasesTracker
from phys4d.engine.storage import replace_text
from phys4d.evaluate.scenes import EvaluateConfig
from phys4d.stages.dataset_checks import WHOLE
from phys4d.stages.gates import check_gate
from phys4d.stages.origin import resolved
from phys4d.stages.plan import plan
from phys4d.stages.preflight import check
from phys4d.stages.registry import STAGES
from phys4d.stages.resume import Resume, open_run
from phys4d.stages.run_file import RunConfig
from phys4d.stages.runner import SKIPPED, execute


def train(
    path: Path, overrides: Sequence[str], *, resume: Resume | None, dry_run: bool, rerun: str | None = None
) -> None:
    """Validates the run file at `path` and runs it.

    overrides: changes of it, "a.b=value".
    resume: goes on with the run in its folder.
    dry_run: prints the plan after everything has been checked, and runs nothing.
    rerun: with resume: the stage that begins again, with all behind it.
    """
    if rerun is not None and resume != "latest":
        raise UserError(f"--rerun {rerun}: is for a run that is there: add --resume")
    if dry_run:
        for line in plan(check_run_file(path, overrides, 1)):
            print(printable(f"  {line}"))
        return
    with Parallel.start() as parallel:
        config = on_all_ranks(lambda: _checked(path, overrides, parallel.world_size))
        parallel.limit(config.timeouts)
        parallel.arrange(config.parallel)
        launch, patience = agents(parallel), 0.0
        if started_again(config.folder, launch, parallel):
            # What --resume=previous and --rerun ask for, the first start has done.
            resume, rerun, patience = "latest", None, config.timeouts.silence
            if parallel.rank == 0:
                line = f"{config.folder}: torchrun has started its processes again: goes on as with --resume"
                print(printable(f"phys4d: {line}"), file=sys.stderr)

        def opened() -> Run:
            return open_run(config, resume=resume, rerun=rerun, launch=launch, patience=patience)

        with on_all_ranks(opened) as run:
            run_stages(config, run, parallel, resume=resume is not None)


def check_run_file(path: Path, overrides: Sequence[str], world_size: int) -> RunConfig:
    """Checks everything that can be checked before a run of so many processes starts, prints one line, and returns its
    configuration."""
    config = _checked(path, overrides, world_size)
    some = f'up to {WHOLE} clips (check_clips = "all": every one)'
    decoded = some if config.check_clips == "some" else "every clip"
    looked = f"decoded of each dataset: {decoded}"
    print(printable(f"{path}: valid: would run {', '.join(config.stages)} in {config.folder}; {looked}"))
    return config


def _checked(path: Path, overrides: Sequence[str], world_size: int) -> RunConfig:
    config = resolved(load_toml(path, RunConfig, overrides))
    check(config, world_size)
    return config


def run_stages(config: RunConfig, run: Run, parallel: Parallel, *, resume: bool) -> None:
    """All stages, each evaluated behind it where the run file says so; then summary.json and report.html.

    They are also written, of the stages until then, when a gate that is not reached ends the run (GateNotReached).
    """

    def after(stage: str) -> None:
        if config.evaluate is not None and STAGES[stage].reads_geometry:
            _evaluate(config, stage, run, parallel)
        check_gate(config, stage, run, parallel)

    if (wandb := config.log.wandb) is not None:
        on_all_ranks(lambda: run.track(WeightsAndBiasesTracker(wandb, run, config)))
    try:
        execute(config, run, parallel, resume=resume, after=after)
    except GateNotReached as missed:
        _summarise(config, config.stages[: config.stages.index(missed.stage) + 1], run, parallel)
        raise
    if config.evaluate is not None:
        _ranked(config, parallel)
    _summarise(config, config.stages, run, parallel)


def _summarise(config: RunConfig, stages: Sequence[str], run: Run, parallel: Parallel) -> None:
    """summary.json and report.html of some stages, if the run is evaluated."""
    if config.evaluate is not None:
        some = config.model_copy(update={"stages": tuple(stages)})
        skipped = {stage: [entry[SKIPPED] for entry in run.noted(stage, SKIPPED)] for stage in stages}
        gates = {stage: run.stage(stage).gate for stage in stages if config.table(stage).gate}
        parallel.on_rank_zero(lambda: write_summary(some, run.clock.stages, run.clock.seconds, skipped, gates))


def _measured(config: RunConfig) -> list[str]:
    return [stage for stage in config.stages if STAGES[stage].reads_geometry]


def _evaluate(config: RunConfig, stage: str, run: Run, parallel: Parallel) -> None:
    from phys4d.evaluate.folders import evaluate_stage

    begun, results = time.perf_counter(), config.folder / "evaluation"
    with parallel.at(f"the evaluation of {stage}"):
        if evaluate_stage(config.output(stage), _settings(config), results, stage, parallel, config.cache):
            took = {**(run.recorded("evaluation_seconds") or {}), stage: round(time.perf_counter() - begun, 2)}
            on_all_ranks(lambda: run.record(evaluation_seconds=took))


def _settings(config: RunConfig) -> EvaluateConfig:
    assert config.evaluate is not None
    return config.evaluate.model_copy(update={"precision": config.evaluate.precision or config.precision})


def _ranked(config: RunConfig, parallel: Parallel) -> None:
    from phys4d.evaluate.folders import evaluate_ranked

    measured: dict[str, Path] = {stage: config.output(stage) for stage in _measured(config)}
    if not measured:
        return
    with parallel.at("the evaluation of the best, median and worst scenes"):
        evaluate_ranked(measured, _settings(config), config.folder / "evaluation", parallel, config.cache)


def write_summary(
    config: RunConfig,
    stage_seconds: dict[str, float],
    seconds: float,
    skipped: dict[str, list[str]],
    gates: Mapping[str, Mapping[str, Outcome]],
) -> None:
    """summary.json from what the evaluations left, then report.html from all of the run folder.

    stage_seconds, seconds: of training and in all, over every session of the run. skipped: keys of the clips that each
    stage skipped. gates: stage -> metric -> outcome, of the stages with a gate.
    """
    from phys4d.evaluate.changes import changes
    from phys4d.evaluate.results import read_table
    from phys4d.report.write import write_report

    tables = {stage: read_table(config.folder / "evaluation", stage) for stage in _measured(config)}
    summary = {
        "stages": {stage: table["means"] for stage, table in tables.items()},
        "changes": changes(tables),
        "baselines": list(tables.values())[-1]["baselines"] if tables else {},
        "readers": {stage: table["reader"] for stage, table in tables.items()},
        "gates": {stage: {name: one.model_dump() for name, one in gate.items()} for stage, gate in gates.items()},
        "stage_seconds": {stage: round(taken, 1) for stage, taken in stage_seconds.items()},
        "skipped_clips": skipped,
        "seconds": round(seconds, 1),
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "provenance": provenance(),
    }
    replace_text(config.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    if tables:
        print(printable(f"report: {write_report(config.folder)}"))
