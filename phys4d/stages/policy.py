"""What the stages that train the generator on a reward of its own clips have in common."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from phys4d.batch import Batch
from phys4d.clips import Clips
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.resume import FROM_HERE
from phys4d.models.guidance import Predict, guided
from phys4d.models.lora import POLICY, add_adapter
from phys4d.models.world import WorldModel
from phys4d.rewards.registry import REWARDS
from phys4d.stages.adapter import AdapterConfig, adapter_of
from phys4d.stages.caption_dropout import CaptionDropout, captions, no_caption
from phys4d.stages.config import StageConfig
from phys4d.stages.spec import StageObjective

if TYPE_CHECKING:
    RewardName = str
else:
    RewardName = Literal[tuple(REWARDS)]


class PolicyConfig(AdapterConfig, StageConfig):
    """Base of the tables of these stages.

    rank, alpha, targets, blocks: of the policy's LoRA, as in `AdapterConfig`.
    conditions: clips per update over all ranks, each of which gives a first frame and a caption.
    steps: denoising steps of a sample.
    guidance: scale of classifier-free guidance, 1 for none: the policy is the guided model, wherever it is evaluated.
        It doubles the evaluations, and what training keeps of them. As all that defines the policy and its reward, it
        may not change under --resume.
    reward: a name in `phys4d.rewards.registry`.
    flow_matching: weight of the diffusion loss on simulated clips, which keeps the generator on the data.
    flow_matching_batch: clips of that loss per optimizer step over all ranks.
    caption_dropout: share of the clips of that loss that are learnt without their caption.
    """

    conditions: Annotated[int, FROM_HERE] = Field(4, ge=1)
    steps: int = Field(6, ge=2)
    guidance: float = Field(1.0, ge=1, le=100)
    reward: RewardName = "changed"
    flow_matching: float = Field(1.0, ge=0)
    flow_matching_batch: Annotated[int, FROM_HERE] = Field(6, ge=1)
    caption_dropout: CaptionDropout = 0.0


@dataclass(frozen=True)
class Samples:
    """Samples that are evaluated together: positions of their conditions, and what is needed of those.

    conditions: position of each sample's clip in the step's batch. clean: [B, C, T', H', W'] latents of these clips.
    first: [B, C, 1, H', W'], the clean latent of their first frame. batch: the samples with their random numbers, of
    the clips nothing but the text. none: [B, L, D] tokens of no caption, None without guidance.
    """

    conditions: list[int]
    clean: Tensor
    first: Tensor
    batch: Batch
    none: Tensor | None


class PolicyObjective(StageObjective):
    """Samples of the generator, which the second LoRA, `POLICY`, steers, and the diffusion loss beside them."""

    def __init__(
        self, config: Any, model: WorldModel, parallel: Parallel, seed: int, clips: Clips | None = None
    ) -> None:
        super().__init__(config, model, parallel, seed, clips)
        self._sigmas = model.sigmas(config.steps)
        self._matching = f"{self.name} flow matching"

    @staticmethod
    def arrays(config: PolicyConfig) -> tuple[str, ...]:
        return REWARDS[config.reward].arrays

    def modules(self) -> dict[str, nn.Module]:
        return {"transformer": self.model.backbone.transformer}

    def parameter_groups(self) -> list[dict]:
        trained = [p for p in self.model.backbone.transformer.parameters() if p.requires_grad]
        return [{"name": "adapter", "params": trained, "lr_scale": 1.0}]

    def _samples(self, conditions: Batch, group: int) -> list[Samples]:
        """The step's samples in micro-batches: each clip `group` times, encoded once, with random numbers of their own.
        """
        count = len(conditions.rng_keys)
        clean = conditions.encoded(self.model.codec)
        first = conditions.first(self.model.codec, clean)
        keys = [(*key, member) for key in conditions.rng_keys for member in range(group)]
        size = self.config.micro_batch or count * group
        parts = []
        for start in range(0, count * group, size):
            own = range(start, min(start + size, count * group))
            index = torch.tensor([i // group for i in own], device=clean.device)
            batch = replace(
                conditions,
                video=conditions.video[:0],
                latents=None,
                text=conditions.text[index],
                arrays={},
                rng_keys=[keys[i] for i in own],
                share=conditions.share * len(own) / (count * group),
            )
            none = None
            if self.config.guidance > 1:
                none = no_caption(batch.text, self.model.backbone, self.clips).expand_as(batch.text)
            parts.append(Samples([i // group for i in own], clean[index], first[index], batch, none))
        return parts

    def _policy(self, samples: Samples) -> Predict:
        """The model whose steps are drawn and trained: guided, where there is guidance."""

        def predict(text: Tensor) -> Predict:
            return lambda noisy, sigma: self.model.predict(noisy, sigma, text, samples.first)

        towards = predict(samples.batch.text)
        return towards if samples.none is None else guided(towards, predict(samples.none), self.config.guidance)

    def _matching_parts(self, draw: int, step: int) -> Sequence[Batch]:
        """The clips of the diffusion loss number `draw`, of this update, in micro-batches."""
        size = self.config.flow_matching_batch
        clips = self.clips.batch(size, self.parallel, self.seed, self._matching, draw, step)
        return clips.split(self.config.micro_batch)

    def _flow_matching(self, batch: Batch) -> Tensor:
        clean = batch.encoded(self.model.codec)
        noise = batch.normal_like(clean, "noise")
        sigma, first = self.model.training_sigma(batch.uniform("sigma")), batch.first(self.model.codec, clean)
        text = captions(batch, self.config.caption_dropout, self.model.backbone, self.clips)
        prediction = self.model.predict(self.model.noised(clean, noise, sigma), sigma, text, first)
        loss = self.model.backbone.diffusion_loss(prediction, clean, noise, sigma)
        return batch.share * self.config.flow_matching * loss


def add_policy(stage: str, model: WorldModel, config: PolicyConfig, seed: int) -> None:
    """Adds the adapter `POLICY` over the frozen ones; trains it, and nothing else."""
    lora = adapter_of(stage, config, model)
    add_adapter(model.backbone.transformer, POLICY, lora.rank, seed, lora.targets, lora.alpha)
    model.heads.requires_grad_(False)
