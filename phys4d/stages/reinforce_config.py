"""The table [reinforce] of a run file."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from phys4d.engine.resume import FROM_HERE
from phys4d.rewards.registry import REWARDS
from phys4d.stages.adapter import AdapterConfig
from phys4d.stages.caption_dropout import CaptionDropout
from phys4d.stages.config import StageConfig
from phys4d.stages.flow_sde import Sampler

if TYPE_CHECKING:
    RewardName = str
else:
    RewardName = Literal[tuple(REWARDS)]


class ReinforceConfig(AdapterConfig, StageConfig):
    """The table [reinforce].

    rank, alpha, targets, blocks: of the policy's LoRA, as in `AdapterConfig`.
    conditions: clips per update over all ranks, each of which gives a first frame and a caption.
    group: samples drawn for each of them; advantages are normalised within this group.
    steps: denoising steps of a sample.
    stochastic_steps: the first so many of them are drawn, and trained on.
    noise_level: of the drawn steps, without unit; for "cps" from above 0 to 1.
    sampler: how steps are drawn, "flow_sde", or "cps", which keeps the proportion of noise at few steps (figures in
        `stages/flow_sde.py`).
    guidance: scale of classifier-free guidance, 1 for none: the policy is the guided model, in rollouts, ratios and KL.
        It doubles the evaluations, and what training keeps of them. As all that defines the policy and its reward, it
        may not change under --resume.
    shared_start: whether a group starts from the same noise (DanceGRPO, arXiv 2505.07818), so that its rewards differ
        by the trained steps alone.
    reward: a name in `phys4d.rewards.registry`.
    clip: of the probability ratio, from 1 - clip to 1 + clip.
    dimensions: scale of log-probabilities (see `log_probability`), so that `clip` can act.
    advantage_clip: largest absolute advantage, in standard deviations of the group.
    shuffled_advantages: makes the run a control: within each group advantages are permuted, so that they say nothing.
    kl: weight of the KL divergence to the fine-tuned reference.
    flow_matching: weight of the diffusion loss on simulated clips, which keeps the generator on the data.
    flow_matching_batch: clips of that loss per optimizer step over all ranks.
    caption_dropout: share of the clips of that loss that are learnt without their caption.
    """

    conditions: Annotated[int, FROM_HERE] = Field(4, ge=1)
    group: int = Field(6, ge=2)
    steps: int = Field(6, ge=2)
    stochastic_steps: int = Field(3, ge=1)
    noise_level: float = Field(0.7, gt=0)
    sampler: Sampler = "flow_sde"
    guidance: float = Field(1.0, ge=1, le=100)
    shared_start: bool = True
    reward: RewardName = "changed"
    clip: float = Field(0.2, gt=0)
    dimensions: float = Field(1e4, gt=0)
    advantage_clip: float = Field(3.0, gt=0)
    shuffled_advantages: bool = False
    kl: float = Field(0.01, ge=0)
    flow_matching: float = Field(1.0, ge=0)
    flow_matching_batch: Annotated[int, FROM_HERE] = Field(6, ge=1)
    caption_dropout: CaptionDropout = 0.0

    @model_validator(mode="after")
    def _steps_can_be_drawn(self) -> Self:
        if self.stochastic_steps >= self.steps:
            raise ValueError("stochastic_steps must be below steps: the last step, to sigma 0, is deterministic")
        if self.sampler == "cps" and self.noise_level > 1:
            raise ValueError(f"noise_level: {self.noise_level} for sampler = \"cps\": choose one above 0 and up to 1")
        return self
