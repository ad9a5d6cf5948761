"""Stage `pretrain`: the transformer is frozen, the depth and motion heads learn from the teachers' pseudo-labels.

Labels may be metres, or disparity up to one positive scale and one shift for each clip, also both in one batch. The
depth head gives metres all the same: of a run without metric labels only their ratios mean something, up to that shift,
until `finetune` learns from metric truth.
"""

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
    disparity: weight of the loss of depth where labels are disparity up to scale and shift (`disparity_loss`), in place
        of `weights.depth`, which is that of metric labels.
    weights: of the terms of the geometry loss.
    """

    moving_pixels: float = Field(0.3, gt=0)
    disparity: float = Field(2.0, ge=0)
    weights: GeometryWeights = GeometryWeights()


class PretrainObjective(StageObjective):
    """Minimises the geometry loss over the heads; sigma is drawn around the probe, where the heads are read."""

    name = "pretrain"
    affine_depth = True

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
        loss, terms = geometry_loss(
            geometry.depth, geometry.motion, batch.arrays, moving, self.config.weights, affine=batch.affine,
            disparity=self.config.disparity,
        )  # fmt: skip
        logged.add(batch.share, loss=loss, **terms)
        return batch.share * loss


SPEC = StageSpec(
    name=PretrainObjective.name,
    config=PretrainConfig,
    objective=PretrainObjective,
    takes=("backbone", RELEASED),
    arrays=PretrainObjective.arrays,
    summary="taught frozen features depth and motion from pseudo-labels",
    parts=("depth_loss", "disparity_loss", "flow_loss", "dz_loss", "grad_norm"),
)
