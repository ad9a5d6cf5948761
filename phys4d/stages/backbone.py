"""Stage `backbone`: flow-matching pretraining of a new model, or on from given weights."""

from functools import partial

from torch import Tensor, nn

from phys4d.batch import Batch
from phys4d.engine.training.loop import OptimizerStep
from phys4d.models.world import WorldModel
from phys4d.stages.caption_dropout import CaptionDropout, captions
from phys4d.stages.config import SupervisedConfig
from phys4d.stages.spec import NEW, RELEASED, Shares, StageObjective, StageSpec


class BackboneConfig(SupervisedConfig):
    """The table [backbone]; of its clips video and caption are used.

    caption_dropout: share of the clips that are learnt without their caption.
    """

    caption_dropout: CaptionDropout = 0.0


class BackboneObjective(StageObjective):
    """Minimises the rectified-flow loss over all of the transformer's weights."""

    name = "backbone"

    @staticmethod
    def arrays(config: BackboneConfig) -> tuple[str, ...]:
        return ()

    @staticmethod
    def prepare(model: WorldModel, config: BackboneConfig, seed: int) -> None:
        """Trains the transformer, and nothing else."""
        model.requires_grad_(False)
        model.backbone.transformer.requires_grad_(True)

    def modules(self) -> dict[str, nn.Module]:
        return {"transformer": self.model.backbone.transformer}

    def parameter_groups(self) -> list[dict]:
        return [{"name": "transformer", "params": list(self.model.backbone.transformer.parameters()), "lr_scale": 1.0}]

    def update(self, step: int, optimizer_step: OptimizerStep) -> dict[str, Tensor | float]:
        batch, logged = self.clips.batch(self.config.batch, self.parallel, self.seed, self.name, step), Shares()
        optimizer_step([partial(self._loss, part, logged) for part in batch.split(self.config.micro_batch)])
        return logged.sums

    def _loss(self, batch: Batch, logged: Shares) -> Tensor:
        model, clean = self.model, batch.encoded(self.model.codec)
        noise = batch.normal_like(clean, "noise")
        sigma = model.training_sigma(batch.uniform("sigma"))
        first = batch.first(model.codec, clean)
        text = captions(batch, self.config.caption_dropout, model.backbone, self.clips)
        prediction = model.predict(model.noised(clean, noise, sigma), sigma, text, first)
        loss = model.backbone.diffusion_loss(prediction, clean, noise, sigma)
        error = (prediction.clean - clean)[:, :, model.backbone.held :].detach().square().mean()
        logged.add(batch.share, loss=loss, clean_mse=error)
        return batch.share * loss


SPEC = StageSpec(
    name=BackboneObjective.name,
    config=BackboneConfig,
    objective=BackboneObjective,
    takes=(NEW, RELEASED, "codec", "backbone"),
    arrays=BackboneObjective.arrays,
    owns_backbone=True,
    reads_geometry=False,
    trains_reader=False,
    summary="trained the video model itself",
    parts=("clean_mse", "grad_norm"),
)
