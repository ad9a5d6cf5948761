"""The table [reinforce] of a run file."""

from typing import Self

from pydantic import Field, model_validator

from phys4d.stages.flow_sde import Sampler
from phys4d.stages.policy import PolicyConfig


class ReinforceConfig(PolicyConfig):
    """The table [reinforce]; what is not here is as in `PolicyConfig`.

    group: samples drawn for each of them; advantages are normalised within this group.
    stochastic_steps: the first so many of them are drawn, and trained on.
    noise_level: of the drawn steps, without unit; for "cps" from above 0 to 1.
    sampler: how steps are drawn, "flow_sde", or "cps", which keeps the proportion of noise at few steps (figures in
        `stages/flow_sde.py`).
    shared_start: whether a group starts from the same noise (DanceGRPO, arXiv 2505.07818), so that its rewards differ
        by the trained steps alone.
    clip: of the probability ratio, from 1 - clip to 1 + clip.
    dimensions: scale of log-probabilities (see `log_probability`), so that `clip` can act.
    advantage_clip: largest absolute advantage, in standard deviations of the group.
    shuffled_advantages: makes the run a control: within each group advantages are permuted, so that they say nothing.
    kl: weight of the KL divergence to the fine-tuned reference.
    """

    group: int = Field(6, ge=2)
    stochastic_steps: int = Field(3, ge=1)
    noise_level: float = Field(0.7, gt=0)
    sampler: Sampler = "flow_sde"
    shared_start: bool = True
    clip: float = Field(0.2, gt=0)
    dimensions: float = Field(1e4, gt=0)
    advantage_clip: float = Field(3.0, gt=0)
    shuffled_advantages: bool = False
    kl: float = Field(0.01, ge=0)

    @model_validator(mode="after")
    def _steps_can_be_drawn(self) -> Self:
        if self.stochastic_steps >= self.steps:
            raise ValueError("stochastic_steps must be below steps: the last step, to sigma 0, is deterministic")
        if self.sampler == "cps" and self.noise_level > 1:
            raise ValueError(f"noise_level: {self.noise_level} for sampler = \"cps\": choose one above 0 and up to 1")
        return self
