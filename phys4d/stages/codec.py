"""Stage `codec`: trains the codec of a new model to give back the clips that it encodes."""

from functools import partial

from pydantic import Field
from torch import Tensor, nn

from phys4d.batch import Batch
from phys4d.engine.errors import UserError
from phys4d.engine.training.loop import OptimizerStep
from phys4d.models.backbone import autocast
from phys4d.models.interface import latent_shape
from phys4d.models.world import WorldModel
from phys4d.stages.config import SupervisedConfig
from phys4d.stages.spec import NEW, Shares, StageObjective, StageSpec

_CHANGED = 0.1  # of the range of 2: a pixel that differs this much from frame 0 counts as changed


class CodecConfig(SupervisedConfig):
    """The table [codec]; of its clips only the video is used.

    noise: deviation of the noise that is added to latents, whose mean square is 1, before they are decoded: what is
        generated is never exactly what was encoded.
    changed: weight, beside 1 of all pixels, of those that differ from the first frame.
    edges: weight of the error of differences between neighbouring pixels.
    """

    noise: float = Field(0.1, ge=0)
    changed: float = Field(3.0, ge=0)
    edges: float = Field(0.5, ge=0)


class CodecObjective(StageObjective):
    """Minimises the absolute error of decoded pixels and of their differences."""

    name = "codec"

    @staticmethod
    def arrays(config: CodecConfig) -> tuple[str, ...]:
        return ()

    @staticmethod
    def prepare(model: WorldModel, config: CodecConfig, seed: int) -> None:
        """Trains the codec, and nothing else."""
        model.requires_grad_(False)
        _trained(model).requires_grad_(True)

    def modules(self) -> dict[str, nn.Module]:
        return {"codec": _trained(self.model)}

    def parameter_groups(self) -> list[dict]:
        return [{"name": "codec", "params": list(_trained(self.model).parameters()), "lr_scale": 1.0}]

    def update(self, step: int, optimizer_step: OptimizerStep) -> dict[str, Tensor | float]:
        batch, logged = self.clips.batch(self.config.batch, self.parallel, self.seed, self.name, step), Shares()
        optimizer_step([partial(self._loss, part, logged) for part in batch.split(self.config.micro_batch)])
        return logged.sums

    def _loss(self, batch: Batch, logged: Shares) -> Tensor:
        model, video = self.model, batch.video
        size = latent_shape(model.codec, (video.shape[2], video.shape[3], video.shape[4]))
        noise = batch.normal_like(video.new_empty(len(video), *size), "noise")
        with autocast(video.device.type, enabled=model.backbone.precision == "bf16"):
            decoded = _trained(model)(video, noise, self.config.noise).float()
        error = decoded - video
        changed = ((video - video[:, :, :1]).abs().amax(1, keepdim=True) > _CHANGED).float()
        absolute = ((1 + self.config.changed * changed) * error.abs()).mean()
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        squared = error.square()
        logged.add(
            batch.share, loss=absolute + self.config.edges * edges, squared_error=squared.mean(),
            first_squared_error=squared[:, :, 0].mean(),
        )  # fmt: skip
        return batch.share * (absolute + self.config.edges * edges)


def _trained(model: WorldModel) -> nn.Module:
    if (codec := model.own_codec) is None:
        kind = model.config.kind
        raise UserError(f'codec: that of model.kind = "{kind}" is not trained: set model.kind = "small"')
    return codec


SPEC = StageSpec(
    name=CodecObjective.name,
    config=CodecConfig,
    objective=CodecObjective,
    takes=(NEW,),
    arrays=CodecObjective.arrays,
    owns_backbone=True,
    reads_geometry=False,
    trains_reader=False,
    summary="trained the codec",
    parts=("squared_error", "first_squared_error", "grad_norm"),
)
