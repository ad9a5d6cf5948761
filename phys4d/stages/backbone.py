"""Stage `backbone`: flow-matching pretraining of the tiny model, since no pretrained weights of it exist."""

from collections.abc import Callable

from pydantic import Field
from torch import Tensor, nn

from phys4d.bad_clips import OnBad
from phys4d.clips import Clips
from phys4d.engine.config import Config
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.resume import Movable
from phys4d.engine.training.loop import LoopConfig, OptimizerConfig
from phys4d.models.flow import noised
from phys4d.models.world import WorldModel
from phys4d.stages.spec import NEW, StageSpec


class BackboneConfig(Config):
    """The table [backbone].

    data: dataset folder; its clips are used for video and caption only.
    on_bad: "stop" ends the stage at a clip that cannot be used and names it; "skip" takes another one in its place.
    batch: clips per step over all ranks.
    optimizer: learning rate, schedule, clipping and averaging.
    loop: steps, and intervals of logs and checkpoints.
    """

    data: Movable
    on_bad: OnBad = "stop"
    batch: int = Field(8, ge=1)
    optimizer: OptimizerConfig
    loop: LoopConfig


class BackboneObjective:
    """Minimises the rectified-flow loss over all of the transformer's weights."""

    name = "backbone"

    def __init__(self, config: BackboneConfig, model: WorldModel, parallel: Parallel, seed: int) -> None:
        self.config, self.model, self.parallel, self.seed = config, model, parallel, seed
        self.clips = Clips(config.data, SPEC.arrays(config), model.text, model.grid, on_bad=config.on_bad)

    @staticmethod
    def prepare(model: WorldModel, config: BackboneConfig, seed: int) -> None:
        """Trains the transformer, and nothing else."""
        model.requires_grad_(False)
        model.backbone.transformer.requires_grad_(True)

    def modules(self) -> dict[str, nn.Module]:
        return {"transformer": self.model.backbone.transformer}

    def parameter_groups(self) -> list[dict]:
        return [{"name": "transformer", "params": list(self.model.backbone.transformer.parameters()), "lr_scale": 1.0}]

    def update(self, step: int, optimizer_step: Callable[[Tensor], Tensor]) -> dict[str, Tensor | float]:
        batch = self.clips.batch(self.config.batch, self.parallel, self.seed, self.name, step)
        clean = self.model.codec.encode(batch.video)
        noise = batch.normal_like(clean, "noise")
        sigma = self.model.training_sigma(batch.uniform("sigma"))
        prediction = self.model.predict(noised(clean, noise, sigma), sigma, batch.text)
        loss = self.model.backbone.diffusion_loss(prediction, clean, noise)
        optimizer_step(loss)
        error = (prediction.clean - clean)[:, :, 1:].detach().square().mean()
        return {"loss": loss.detach(), "clean_mse": error}


SPEC = StageSpec(
    name=BackboneObjective.name,
    config=BackboneConfig,
    objective=BackboneObjective,
    takes=(NEW,),
    arrays=lambda config: (),
    owns_backbone=True,
    reads_geometry=False,
    trains_reader=False,
    summary="trained the video model itself",
    parts=("clean_mse", "grad_norm"),
)
