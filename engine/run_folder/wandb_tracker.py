"""Weights & Biases: the log lines of a run, sent while it trains."""

import importlib
import importlib.util
import secrets
from typing import Any, Literal

from pydantic import Field

from phys4d.engine.config import Config
from phys4d.engine.errors import UserError
from phys4d.engine.run_folder.run import Run


class WeightsAndBiases(Config):
    """The table `wandb` of `log`.

    project: name of the project.
    entity: user or team; none: the account's default.
    name: of the run; none: one that W&B makes up.
    group, tags: of the run.
    mode: "offline" writes into the run folder, for `wandb sync` later; none: what WANDB_MODE says, else online.
    """

    project: str = Field(min_length=1)
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    mode: Literal["online", "offline"] | None = None


class LogConfig(Config):
    """The table `log`: where log lines go beside metrics.jsonl and TensorBoard.

    wandb: Weights & Biases; none: nothing is sent.
    """

    wandb: WeightsAndBiases | None = None


def check_wandb(config: LogConfig) -> None:
    """Raises UserError if the run asks for Weights & Biases and its package is absent."""
    if config.wandb is not None and importlib.util.find_spec("wandb") is None:
        raise UserError('log.wandb: wandb is not installed: pip install "phys4d[wandb]", or remove the key')


class WeightsAndBiasesTracker:
    """Sends log lines to W&B; `Run.track` takes it. On other ranks than 0 it does nothing.

    A resumed run goes on with its W&B run, whose id is in provenance.json. Every stage has an axis of its own,
    <stage>/step; steps that a resumed run does again are sent again.

    Raises UserError if W&B does not start the run, without network for example.
    """

    def __init__(self, config: WeightsAndBiases, run: Run, settings: Config) -> None:
        self._wandb: Any = None
        self._axes: set[str] = set()
        if not run.writes:
            return
        wandb = importlib.import_module("wandb")
        identity = (run.recorded("wandb") or {}).get("id") or secrets.token_hex(8)
        try:
            started = wandb.init(
                project=config.project, entity=config.entity, name=config.name, group=config.group,
                tags=list(config.tags), mode=config.mode, dir=str(run.folder), id=identity, resume="allow",
                config=settings.model_dump(mode="json"),
            )  # fmt: skip
        except Exception as error:  # of several classes, which differ between its versions
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f'log.wandb: the run cannot be started: {reason[0]}: or set mode = "offline"') from error
        run.record(wandb={"id": identity, "project": config.project, "url": getattr(started, "url", None)})
        self._wandb = started

    def scalars(self, stage: str, step: int, values: dict[str, float]) -> None:
        """Sends one log line of a stage, each value as <stage>/<name>."""
        if self._wandb is None:
            return
        axis = f"{stage}/step"
        if stage not in self._axes:
            self._wandb.define_metric(axis, hidden=True)
            self._wandb.define_metric(f"{stage}/*", step_metric=axis)
            self._axes.add(stage)
        self._wandb.log({axis: step} | {f"{stage}/{name}": value for name, value in values.items()})

    def close(self) -> None:
        """Waits until everything is sent."""
        if self._wandb is not None:
            self._wandb.finish()
