"""Stage `finetune`: a LoRA on the transformer and the heads learn from simulator truth, with warp consistency."""

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from phys4d.bad_clips import OnBad
from phys4d.clips import TRUTH, Clips
from phys4d.engine.config import Config
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.resume import FROM_HERE, Movable
from phys4d.engine.training.loop import LoopConfig, OptimizerConfig
from phys4d.models.flow import noised
from phys4d.models.lora import SUPERVISED, add_adapter
from phys4d.models.world import WorldModel
from phys4d.stages.geometry_loss import GeometryWeights, geometry_loss, near_probe
from phys4d.stages.spec import StageSpec


class FinetuneConfig(Config):
    """The table [finetune].

    data: folder of a simulated dataset with truth.
    on_bad: "stop" ends the stage at a clip that cannot be used and names it; "skip" takes another one in its place.
    batch: clips per step over all ranks.
    rank: of the LoRA; alpha is equal to it.
    diffusion: weight of the diffusion loss beside the geometry loss.
    heads_lr_scale: the heads' learning rate over the LoRA's, which is `optimizer.learning_rate`.
    weights: of the terms of the geometry loss.
    optimizer: learning rate, schedule, clipping and averaging.
    loop: steps, and intervals of logs and checkpoints.
    """

    data: Movable
    on_bad: OnBad = "stop"
    batch: int = Field(8, ge=1)
    rank: int = Field(16, ge=1)
    diffusion: float = Field(5.0, ge=0)
    heads_lr_scale: Annotated[float, FROM_HERE] = Field(2.0, ge=0)
    weights: GeometryWeights = GeometryWeights(warp=0.5)
    optimizer: OptimizerConfig
    loop: LoopConfig


class FinetuneObjective:
    """Minimises diffusion + depth + motion + warp consistency from one evaluation of the transformer.

    Half of the clips take a sigma around the probe, and carry the geometry terms; the other half one of the sampling
    distribution. All carry the diffusion term.
    """

    name = "finetune"

    def __init__(self, config: FinetuneConfig, model: WorldModel, parallel: Parallel, seed: int) -> None:
        self.config, self.model, self.parallel, self.seed = config, model, parallel, seed
        self.clips = Clips(config.data, SPEC.arrays(config), model.text, model.grid, on_bad=config.on_bad)

    @staticmethod
    def prepare(model: WorldModel, config: FinetuneConfig, seed: int) -> None:
        """Adds the adapter `finetune`; trains it and the heads."""
        backbone = model.backbone
        add_adapter(backbone.transformer, SUPERVISED, config.rank, seed, backbone.lora_targets)
        model.heads.requires_grad_(True)

    def modules(self) -> dict[str, nn.Module]:
        return {"transformer": self.model.backbone.transformer, "heads": self.model.heads}

    def parameter_groups(self) -> list[dict]:
        lora = [p for p in self.model.backbone.transformer.parameters() if p.requires_grad]
        return [
            {"name": "adapter", "params": lora, "lr_scale": 1.0},
            {
                "name": "heads",
                "params": list(self.model.heads.parameters()),
                "lr_scale": self.config.heads_lr_scale,
            },
        ]

    def update(self, step: int, optimizer_step: Callable[[Tensor], Tensor]) -> dict[str, Tensor | float]:
        model = self.model
        batch = self.clips.batch(self.config.batch, self.parallel, self.seed, self.name, step)
        clean = model.codec.encode(batch.video)
        noise, u = batch.normal_like(clean, "noise"), batch.uniform("sigma")
        sampled = model.training_sigma(u)
        read = [int(place) % 2 == 0 for *_, place in batch.rng_keys]
        sigma = torch.where(torch.tensor(read, device=u.device), near_probe(u, model.config.probe_sigma), sampled)
        noisy = noised(clean, noise, sigma)
        prediction = model.predict(noisy, sigma, batch.text)
        share, chosen = self._read_clips(read, u.device)
        depth, motion = model.heads(tuple(h[chosen] for h in prediction.hidden), noisy[chosen], sigma[chosen])
        labels = {name: array[chosen] for name, array in batch.arrays.items()}
        geometry, terms = geometry_loss(depth, motion, labels, labels["moving"], self.config.weights)
        diffusion = model.backbone.diffusion_loss(prediction, clean, noise)
        loss = self.config.diffusion * diffusion + share * geometry
        optimizer_step(loss)
        shown = share * self.config.batch / (2 * ((self.config.batch + 1) // 2))  # so that ranks average to clips
        terms = {name: shown * term for name, term in terms.items()}
        return {"loss": loss.detach(), "diffusion_loss": diffusion.detach(), **terms}

    @staticmethod
    def _read_clips(flags: list[bool], device: torch.device) -> tuple[float, Tensor]:
        """Which clips of this rank the heads see, and the factor that makes the mean over ranks that over the clips.

        A rank that holds none still evaluates the heads, with factor 0: sharded modules must be called by all ranks.
        """
        factor = 2 * sum(flags) / len(flags)
        chosen = [i for i, flag in enumerate(flags) if flag or factor == 0]
        return factor, torch.tensor(chosen, device=device)


SPEC = StageSpec(
    name=FinetuneObjective.name,
    config=FinetuneConfig,
    objective=FinetuneObjective,
    takes=("pretrain",),
    arrays=lambda config: TRUTH,
    summary="trained adapter and heads on simulator truth",
    parts=("depth_loss", "flow_loss", "dz_loss", "diffusion_loss", "warp_loss", "grad_norm"),
)
