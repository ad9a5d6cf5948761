"""Stage `pretrain`: the transformer is frozen, the depth and motion heads learn from the teachers' pseudo-labels."""

from functools import partial

from pydantic import Field
from torch import Tensor, nn

from phys4d.batch import Batch
from phys4d.clips import PSEUDO
from phys4d.engine.training.loop import OptimizerStep
from phys4d.models.world import WorldModel
from phys4d.stages.config import SupervisedConfig
from phys4d.stages.geometry_loss import GeometryWeights, geometry_loss, near_probe
from phys4d.stages.spec import RELEASED, Shares, StageObjective, StageSpec


class PretrainConfig(SupervisedConfig):
    """The table [pretrain].

    moving_pixels: length of the pseudo flow, in pixels per frame, above which a pixel counts as moving; also where that
        flow is not valid, since it fails its check mostly at the borders of what moves.
    weights: of the terms of the geometry loss.
    """

    moving_pixels: float = Field(0.3, gt=0)
    weights: GeometryWeights = GeometryWeights()


class PretrainObjective(StageObjective):
    """Minimises the geometry loss over the heads; sigma is drawn around the probe, where the heads are read."""

    name = "pretrain"

    @staticmethod
    def arrays(config: PretrainConfig) -> tuple[str, ...]:
        return PSEUDO

    @staticmethod
    def prepare(model: WorldModel, config: PretrainConfig, seed: int) -> None:
        """Trains the heads, and nothing else."""
        model.requires_grad_(False)
        model.heads.requires_grad_(True)

    def modules(self) -> dict[str, nn.Module]:
        return {"heads": self.model.heads}

    def parameter_groups(self) -> list[dict]:
        return [{"name": "heads", "params": list(self.model.heads.parameters()), "lr_scale": 1.0}]

    def update(self, step: int, optimizer_step: OptimizerStep) -> dict[str, Tensor | float]:
        batch, logged = self.clips.batch(self.config.batch, self.parallel, self.seed, self.name, step), Shares()
        optimizer_step([partial(self._loss, part, logged) for part in batch.split(self.config.micro_batch)])
        return logged.sums

    def _loss(self, batch: Batch, logged: Shares) -> Tensor:
        model, clean = self.model, batch.encoded(self.model.codec)
        sigma, first = near_probe(batch.uniform("sigma"), model.config.probe_sigma), batch.first(model.codec, clean)
        geometry = model.read_geometry(clean, batch.text, batch.normal_like(clean, "noise"), sigma, first=first)
        moving = batch.arrays["motion"][:, :2].norm(dim=1) > self.config.moving_pixels
        loss, terms = geometry_loss(geometry.depth, geometry.motion, batch.arrays, moving, self.config.weights)
        logged.add(batch.share, loss=loss, **terms)
        return batch.share * loss


SPEC = StageSpec(
    name=PretrainObjective.name,
    config=PretrainConfig,
    objective=PretrainObjective,
    takes=("backbone", RELEASED),
    arrays=PretrainObjective.arrays,
    summary="taught frozen features depth and motion from pseudo-labels",
    parts=("depth_loss", "flow_loss", "dz_loss", "grad_norm"),
)
