"""Gates of the stages: which metrics there are, their values in a run folder, and the end of a run at a gate."""

import math
from collections.abc import Mapping
from typing import Any

from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import GateNotReached, UserError
from phys4d.engine.run_folder.metrics import read_metrics
from phys4d.engine.run_folder.run import Run
from phys4d.engine.run_folder.stages import Outcome
from phys4d.engine.training.gate import outcomes
from phys4d.engine.training.length import LENGTHS
from phys4d.evaluate.folders import read_table
from phys4d.evaluate.metrics import METRICS
from phys4d.stages.registry import STAGES
from phys4d.stages.run_file import RunConfig

TRAIN = "train."
"""Beginning of the name of a training scalar in a gate; without it a name is a metric of the evaluation."""
_OF_THE_LOOP = ("grad_norm", "learning_rate", "seconds")


def training_scalars(stage: str) -> tuple[str, ...]:
    """Names of the scalars that a stage logs, as far as its `StageSpec` and the training loop say."""
    spec = STAGES[stage]
    drawn = [name for panel in spec.panels for name in (panel.name, panel.spread) if name is not None]
    return tuple(dict.fromkeys((*drawn, *spec.parts, *_OF_THE_LOOP)))


def check_gates(config: RunConfig) -> None:
    """Raises UserError for a gate on a metric that there will not be."""
    for stage in config.stages:
        scalars = [TRAIN + name for name in training_scalars(stage)]
        for metric in config.table(stage).gate:
            where = f"{stage}.gate: {metric}"
            if metric in METRICS:
                if not STAGES[stage].reads_geometry:
                    raise UserError(
                        f"{where}: {stage} is not evaluated, its model reads no depth and motion: it has "
                        f"{', '.join(scalars)}"
                    )
                if config.evaluate is None:
                    raise UserError(f"{where}: is a metric of the evaluation: add a table [evaluate]")
            elif metric not in scalars:
                measured = METRICS if STAGES[stage].reads_geometry else ()
                raise UserError(f"{where}: no such metric: expected one of {', '.join((*measured, *scalars))}")


def check_gate(config: RunConfig, stage: str, run: Run, parallel: Parallel) -> None:
    """Compares the metrics of a finished and evaluated stage with its gate, and records the outcome.

    Raises GateNotReached on all ranks; the message is that of rank 0.
    """
    gate = config.table(stage).gate
    found: dict[str, Outcome] = {}

    def compare() -> None:
        found.update(outcomes(gate, _values(config, stage, gate)))
        record = run.stage(stage).model_copy(update={"gate": found})
        if record != run.stage(stage):
            run.record_stage(stage, record)

    parallel.on_rank_zero(compare)
    if gate and parallel.any(not all(outcome.reached for outcome in found.values())):
        raise GateNotReached(stage, _line(config, stage, found))


def _values(config: RunConfig, stage: str, gate: Mapping[str, Any]) -> dict[str, float | None]:
    evaluated = [metric for metric in gate if not metric.startswith(TRAIN)]
    values: dict[str, float | None] = {}
    if evaluated:
        means = read_table(config.folder / "evaluation", stage)["means"]
        values |= {metric: means.get(metric) for metric in evaluated}
    trained = [metric.removeprefix(TRAIN) for metric in gate if metric.startswith(TRAIN)]
    if trained:
        lines = [line for line in read_metrics(config.folder / "metrics.jsonl")[0] if line["stage"] == stage]
        for name in trained:
            logged = [line[name] for line in lines if isinstance(line.get(name, ""), int | float | None)]
            values[TRAIN + name] = logged[-1] if logged else None
    return values


def _line(config: RunConfig, stage: str, found: Mapping[str, Outcome]) -> str:
    missed = {metric: outcome for metric, outcome in found.items() if not outcome.reached}
    said = ", ".join(f"{metric} is {_shown(o.value)}, asked is {o.condition}" for metric, o in missed.items())
    length = next(name for name in LENGTHS if getattr(config.table(stage).loop, name) is not None)
    files = dict.fromkeys("metrics.jsonl" if m.startswith(TRAIN) else f"evaluation/{stage}.json" for m in missed)
    later = config.stages[config.stages.index(stage) + 1 :]
    stops = f"; {later[0]} does not start" if later else ""
    return (
        f"{stage}: gate not reached: {said}{stops}: train longer (raise {stage}.loop.{length}) or lower the bar "
        f"({stage}.gate, which may change at any time), then --resume; figures: "
        f"{', '.join(str(config.folder / file) for file in files)}"
    )


def _shown(value: float | None) -> str:
    return "not a number" if value is None or math.isnan(value) else f"{value:.4g}"
