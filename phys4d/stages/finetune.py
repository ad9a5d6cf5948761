"""Stage `finetune`: a LoRA on the transformer and the heads learn from simulator truth, with warp consistency.

The heads may learn alone first, on frozen features: a step then costs a forward pass of the transformer only, and the
LoRA does not bend features towards heads that know nothing of the truth yet (Kumar et al. 2022, arXiv 2202.10054:
linear probing, then fine-tuning).
"""

from contextlib import nullcontext
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from phys4d.batch import Batch
from phys4d.clips import TRUTH
from phys4d.engine.resume import FROM_HERE
from phys4d.engine.training.loop import OptimizerStep
from phys4d.models.lora import SUPERVISED, add_adapter
from phys4d.models.world import WorldModel
from phys4d.stages.adapter import AdapterConfig, adapter_of
from phys4d.stages.caption_dropout import CaptionDropout, captions
from phys4d.stages.config import SupervisedConfig
from phys4d.stages.geometry_loss import GeometryWeights, geometry_loss, near_probe
from phys4d.stages.spec import Shares, StageObjective, StageSpec, by_depth


class FinetuneConfig(AdapterConfig, SupervisedConfig):
    """The table [finetune].

    rank, alpha, targets, blocks: of the LoRA, as in `AdapterConfig`.
    heads_first: the first so many steps, in which the heads learn alone and from every clip.
    diffusion: weight of the diffusion loss beside the geometry loss.
    heads_lr_scale: the heads' learning rate over the LoRA's, which is `optimizer.learning_rate`.
    layer_decay: factor of the LoRA's learning rate from each block to the one before it (BEiT, Bao et al. 2021); 1: one
        rate for all.
    caption_dropout: share of the clips that are learnt without their caption, of those that the heads do not read.
    weights: of the terms of the geometry loss.
    """

    heads_first: int = Field(0, ge=0)
    diffusion: float = Field(5.0, ge=0)
    heads_lr_scale: Annotated[float, FROM_HERE] = Field(2.0, ge=0)
    layer_decay: Annotated[float, FROM_HERE] = Field(1.0, gt=0, le=1)
    caption_dropout: CaptionDropout = 0.0
    weights: GeometryWeights = GeometryWeights(warp=0.5)


class FinetuneObjective(StageObjective):
    """Minimises diffusion + depth + motion + warp consistency from one evaluation of the transformer.

    Half of the clips take a sigma around the probe, and carry the geometry terms; the other half one of the sampling
    distribution. All carry the diffusion term. In the first `heads_first` steps all clips are of the first kind, and
    their diffusion term is logged and not trained.
    """

    name = "finetune"

    @staticmethod
    def arrays(config: FinetuneConfig) -> tuple[str, ...]:
        return TRUTH

    @staticmethod
    def prepare(model: WorldModel, config: FinetuneConfig, seed: int) -> None:
        """Adds the adapter `finetune`; trains it and the heads."""
        lora = adapter_of("finetune", config, model)
        add_adapter(model.backbone.transformer, SUPERVISED, lora.rank, seed, lora.targets, lora.alpha)
        model.heads.requires_grad_(True)

    def modules(self) -> dict[str, nn.Module]:
        return {"transformer": self.model.backbone.transformer, "heads": self.model.heads}

    def parameter_groups(self) -> list[dict]:
        return [
            *by_depth("adapter", self.model.backbone, self.config.layer_decay),
            {
                "name": "heads",
                "params": list(self.model.heads.parameters()),
                "lr_scale": self.config.heads_lr_scale,
            },
        ]

    def update(self, step: int, optimizer_step: OptimizerStep) -> dict[str, Tensor | float]:
        batch, logged = self.clips.batch(self.config.batch, self.parallel, self.seed, self.name, step), Shares()
        parts = batch.split(self.config.micro_batch)
        if step < self.config.heads_first:
            optimizer_step([partial(self._loss, part, True, logged, alone=True) for part in parts])
            return logged.sums
        called = self._heads_called([len(part.rng_keys) for part in parts])
        with_heads_last = sorted(zip(parts, called, strict=True), key=lambda pair: pair[1])
        optimizer_step([partial(self._loss, part, heads, logged) for part, heads in with_heads_last])
        return logged.sums

    def _heads_called(self, lengths: list[int]) -> list[bool]:
        """For each micro-batch whether any rank reads a clip of it with the heads, which then all ranks must call."""
        local, ends = sum(lengths), [sum(lengths[: i + 1]) for i in range(len(lengths))]
        starts = [rank * local for rank in range(self.parallel.data_size)]
        return [
            any(_is_read(start + i) for start in starts for i in range(end - length, end))
            for length, end in zip(lengths, ends, strict=True)
        ]

    def _loss(self, batch: Batch, heads: bool, logged: Shares, *, alone: bool = False) -> Tensor:
        """The share of one micro-batch; heads: whether they are evaluated; alone: whether they learn alone."""
        model = self.model
        clean = batch.encoded(model.codec)
        noise, u = batch.normal_like(clean, "noise"), batch.uniform("sigma")
        sampled = model.training_sigma(u)
        read = [alone or _is_read(int(place)) for *_, place in batch.rng_keys]
        sigma = torch.where(torch.tensor(read, device=u.device), near_probe(u, model.config.probe_sigma), sampled)
        noisy = model.noised(clean, noise, sigma)
        text = captions(batch, self.config.caption_dropout, model.backbone, self.clips, read)
        with torch.no_grad() if alone else nullcontext():
            prediction = model.predict(noisy, sigma, text, batch.first(model.codec, clean))
            diffusion = model.backbone.diffusion_loss(prediction, clean, noise, sigma)
        loss = self.config.diffusion * diffusion
        logged.add(batch.share, diffusion_loss=diffusion)
        if heads:
            weight, places = (1.0, list(range(len(read)))) if alone else _weight_of_read(read)
            chosen = torch.tensor(places, device=u.device)
            depth, motion = model.heads(tuple(h[chosen] for h in prediction.hidden), noisy[chosen], sigma[chosen])
            labels = {name: array[chosen] for name, array in batch.arrays.items()}
            geometry, terms = geometry_loss(depth, motion, labels, labels["moving"], self.config.weights)
            loss = loss + weight * geometry
            # terms are logged as means over the clips that are read
            of_read = 1.0 if alone else self.config.batch / (2 * ((self.config.batch + 1) // 2))
            logged.add(batch.share * weight * of_read, **terms)
        logged.add(batch.share, loss=loss)
        return batch.share * loss


def _weight_of_read(read: list[bool]) -> tuple[float, list[int]]:
    """The weight of the geometry loss, and the clips it is evaluated on.

    Each clip that is read counts twice, for the one that is not. A rank without any evaluates its first clip with
    weight 0, since all ranks must call sharded modules.
    """
    return 2 * sum(read) / len(read), [i for i, flag in enumerate(read) if flag] or [0]


def _is_read(place: int) -> bool:
    """Whether the heads read the clip at this place of the global batch."""
    return place % 2 == 0


SPEC = StageSpec(
    name=FinetuneObjective.name,
    config=FinetuneConfig,
    objective=FinetuneObjective,
    takes=("pretrain",),
    arrays=FinetuneObjective.arrays,
    summary="trained adapter and heads on simulator truth",
    parts=("depth_loss", "flow_loss", "dz_loss", "diffusion_loss", "warp_loss", "grad_norm"),
)
