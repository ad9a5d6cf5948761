"""The run file: which stages a run has, their tables, and where it goes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model

from phys4d.engine.config import Config
from phys4d.engine.distributed.watchdog import Timeouts
from phys4d.engine.resume import FROM_HERE, MOVED, SAME_WEIGHTS, Movable, OnResume
from phys4d.engine.run_folder.wandb_tracker import LogConfig
from phys4d.evaluate.run import EvaluateConfig
from phys4d.models.backbone import Precision
from phys4d.models.config import ModelConfig
from phys4d.stages.registry import STAGES

MEASURED_AGAIN = OnResume("all stages are measured again", anytime=True, discards="evaluation")
if TYPE_CHECKING:
    StageName = str
else:
    StageName = Literal[tuple(STAGES)]


class RunSettings(Config):
    """A run file. Each stage named in `stages` has a table of its name, with the keys of its `StageSpec.config`.

    folder: the run folder.
    stages: names of the stages, in the order in which they run.
    seed: of all random numbers.
    precision: of the transformer's matrix products; "bf16" leaves weights, gradients, timesteps, sigmas, RoPE tables,
        heads and losses in fp32.
    init: the model folder that a stage wrote, or a published model's folder, from which the first stage starts; none
        where that stage starts from a new model.
    check_clips: which clips are decoded before anything starts, also by --dry-run: "some" of each dataset, spread over
        it, or "all". The rest is checked when it is read.
    model: how the model is made and sampled.
    log: where log lines go beside the run folder.
    timeouts: time limits of a run on several processes.
    evaluate: measures the model behind every stage that has heads; none measures nothing.
    """

    folder: Movable
    stages: tuple[StageName, ...] = Field(min_length=1)
    seed: int = Field(0, ge=0)
    precision: Annotated[Precision, FROM_HERE] = "fp32"
    init: Annotated[Path | None, MOVED] = None
    check_clips: Annotated[Literal["some", "all"], SAME_WEIGHTS] = "some"
    model: ModelConfig = ModelConfig()
    log: Annotated[LogConfig, SAME_WEIGHTS] = LogConfig()
    timeouts: Annotated[Timeouts, SAME_WEIGHTS] = Timeouts()
    evaluate: Annotated[EvaluateConfig | None, MEASURED_AGAIN] = None

    def table(self, stage: str) -> Any:
        """The table of a stage, None where the run file has none."""
        return getattr(self, stage)

    def output(self, stage: str) -> Path:
        """The folder in which a stage writes the model that it hands on."""
        return self.folder / f"model-{stage}"


if TYPE_CHECKING:
    RunConfig = RunSettings
else:  # with one optional table for each registered stage
    RunConfig = create_model(
        "RunConfig", __base__=RunSettings, **{name: (spec.config | None, None) for name, spec in STAGES.items()}
    )
