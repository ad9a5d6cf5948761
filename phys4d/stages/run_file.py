"""The run file: which stages a run has, their tables, and where it goes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model

from phys4d.caches.lookup import CacheMode, Latents
from phys4d.engine import toml_text
from phys4d.engine.config import Config
from phys4d.engine.data.decoders.choice import DecoderName
from phys4d.engine.distributed.mesh import ParallelConfig
from phys4d.engine.distributed.watchdog import Timeouts
from phys4d.engine.resume import FROM_HERE, MOVED, REGROUPED, SAME_WEIGHTS, Movable, OnResume
from phys4d.engine.run_folder.wandb_tracker import LogConfig
from phys4d.engine.training.activations import MODES
from phys4d.engine.training.gate import Gate
from phys4d.evaluate.scenes import EvaluateConfig
from phys4d.models.backbone import Precision
from phys4d.models.config import ModelConfig
from phys4d.models.shipped import ModelPath
from phys4d.stages.registry import STAGES

MEASURED_AGAIN = OnResume("all stages are measured again", anytime=True, discards="evaluation")
MORE_STAGES = OnResume("the added stages are run, too", anytime=True)
if TYPE_CHECKING:
    StageName = str
else:
    StageName = Literal[tuple(STAGES)]


class RunSettings(Config):
    """A run file. Each stage named in `stages` has a table of its name, with the keys of its `StageSpec.config`, of
    which `loop` gives the length (`engine.training.length.LoopConfig`), and two more:

    gate: conditions without which the run ends after the stage (exit code 4), metric -> condition, such as
        { warp_l1 = "< 0.03", train.loss = "< 0.5" }. Metrics are the means of the stage's evaluation, and, after
        `train.`, the scalars that the stage last logged.
    latents: folder of the cache of `data` (`phys4d data encode`); default: the folder `cache` in it.

    The other keys are those of the whole run.

    folder: the run folder.
    stages: names of the stages, in the order in which they run.
    seed: of all random numbers.
    precision: of the transformer's matrix products; "bf16" leaves weights, gradients, timesteps, sigmas, RoPE tables,
        heads and losses in fp32.
    init: the model from which the first stage starts: a model folder that a stage wrote, a run folder, which stands
        for the model of its last finished stage, a published model's folder, or "phys4d:small", which comes with the
        package; none for a new model.
    check_clips: which clips are decoded before anything starts, also by --dry-run: "some" of each dataset, spread over
        it, or "all". The rest is checked when it is read.
    cache: "auto" reads latents and tokens from the cache of a dataset where there is one; "required" refuses a dataset
        without; "off" encodes the clips in every step.
    decoder: what decodes the clips of the stages: "auto" takes DALI on a GPU, where it is installed, for the clips that
        it serves, and PyAV otherwise; "dali", "pyav" and "torchcodec" take no other. Evaluations always use PyAV.
    model: how the model is made and sampled.
    parallel: how several processes divide the work.
    checkpointing: which activations of the transformer's blocks are kept for the backward pass: "none" computes none
        again, "full" all but the inputs of blocks, "every_N" those of every N-th block, "selective" what is cheap.
    compile: compiles the transformer's blocks one by one (torch.compile); a block that cannot be compiled is an error.
    log: where log lines go beside the run folder.
    timeouts: time limits of a run on several processes.
    evaluate: measures the model behind every stage that has heads; none measures nothing.
    """

    folder: Movable
    stages: Annotated[tuple[StageName, ...], MORE_STAGES] = Field(min_length=1)
    seed: int = Field(0, ge=0)
    precision: Annotated[Precision, FROM_HERE] = "fp32"
    init: Annotated[ModelPath, MOVED] = None
    check_clips: Annotated[Literal["some", "all"], SAME_WEIGHTS] = "some"
    cache: CacheMode = "auto"
    decoder: Annotated[DecoderName, FROM_HERE] = "auto"
    model: ModelConfig = ModelConfig()
    parallel: ParallelConfig = ParallelConfig()
    checkpointing: Annotated[str, SAME_WEIGHTS] = Field("none", pattern=f"^({MODES})$")
    compile: Annotated[bool, REGROUPED] = False
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
else:  # with one optional table for each registered stage, which also has its gate and its cache
    _TABLES = {
        name: create_model(
            spec.config.__name__, __base__=spec.config, __doc__=spec.config.__doc__, gate=(Gate, {}),
            latents=(Latents, None),
        )
        for name, spec in STAGES.items()
    }
    RunConfig = create_model(
        "RunConfig", __base__=RunSettings, **{name: (table | None, None) for name, table in _TABLES.items()}
    )


def stored_values(folder: Path) -> dict[str, Any]:
    """The configuration of the run in a folder as plain values, not validated; empty where there is none, or a damaged
    one, which `Run.create` refuses.
    """
    try:
        return toml_text.loads(toml_text.read(folder / "config.toml"))
    except (OSError, ValueError):
        return {}
