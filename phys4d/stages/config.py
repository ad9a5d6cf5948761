"""What the tables of all stages have in common."""

from typing import Annotated

from pydantic import Field

from phys4d.bad_clips import MOST_BAD, MaxBad, OnBad
from phys4d.engine.config import Config
from phys4d.engine.resume import FROM_HERE, REGROUPED
from phys4d.engine.training.loop import LoopConfig, OptimizerConfig
from phys4d.stages.data import Data


class StageConfig(Config):
    """Base of the tables of stages.

    data: folder of the dataset, or several that are mixed, each with a folder of its own (`stages.data.DataPart`).
    on_bad: "stop" ends the stage at a clip that cannot be used and names it; "skip" takes another one in its place.
    max_bad: largest share of the clips that "skip" replaces; more end the run. One clip may always be bad.
    micro_batch: clips, or samples drawn for them, evaluated together on one rank, to which gradients are summed;
        default: all of this rank's. Lower it if memory does not suffice.
    optimizer: learning rate, schedule, clipping and averaging.
    loop: steps, and intervals of logs and checkpoints.
    """

    data: Data
    on_bad: OnBad = "stop"
    max_bad: MaxBad = Field(MOST_BAD, ge=0, le=1)
    micro_batch: Annotated[int | None, REGROUPED] = Field(None, ge=1)
    optimizer: OptimizerConfig
    loop: LoopConfig


class SupervisedConfig(StageConfig):
    """Base of the tables of stages that learn from the clips of a step directly.

    batch: clips per step over all ranks.
    """

    batch: Annotated[int, FROM_HERE] = Field(8, ge=1)
