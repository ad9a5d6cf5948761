"""What provenance.json records of each stage: the model it started from, the model it wrote, its gate."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from phys4d.engine import json_text


class Outcome(BaseModel):
    """A condition of a gate: the metric's value (None for one that is not finite or absent), and whether it held."""

    value: float | None
    condition: str
    reached: bool


class StageRecord(BaseModel):
    """A stage of a run.

    start: digest of the model that the stage started from, "" for a new model, None where it is not known.
    model: digest of the model that the stage wrote, None before that.
    gate: metric -> outcome, as of the last check.
    """

    start: str | None = None
    model: str | None = None
    gate: dict[str, Outcome] = {}


def read_stages(folder: Path) -> dict[str, StageRecord]:
    """The records in the provenance.json of a run folder; none where it has no such file, or a damaged one."""
    try:
        stored = json_text.loads(json_text.read(folder / "provenance.json"))
        return {stage: StageRecord.model_validate(record) for stage, record in stored["stages"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


class RunRecord(BaseModel):
    """The content of provenance.json, as far as a resumed run reads it."""

    model_config = ConfigDict(extra="allow")

    identities: dict[str, str] = {}
    stages: dict[str, StageRecord] = {}
    resumed: list[dict[str, Any]] = []
    flops_per_step_and_rank: dict[str, dict[str, float]] = {}
    wandb: dict[str, str | None] = {}
