"""Stage `reward_gradient`: trains the second LoRA along the reward's own gradient, through the last denoising steps.

Chamfer distance, unprojection, heads and codec are all differentiable, so every sample has a direction in which its
reward grows, where `reinforce` knows only which of a group are better. Clark et al., "Directly Fine-Tuning Diffusion
Models on Differentiable Rewards" (DRaFT, arXiv 2309.17400): gradients of the last K steps alone.

What it costs: the graphs of K evaluations of the generator at once. The reading of geometry and the decoding, of which
one chunk of frames is computed again at a time, are differentiated by themselves, before that, and with the policy's
adapter off, as it is read everywhere.
"""

from collections.abc import Sequence
from functools import partial

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from phys4d.batch import Batch
from phys4d.clips import Clips
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.errors import UserError
from phys4d.engine.training.loop import Loss, OptimizerStep
from phys4d.models.flow import sample
from phys4d.models.lora import POLICY, without
from phys4d.models.recomputed import recomputed
from phys4d.models.world import WorldModel
from phys4d.rewards.pixel_error import pixel_error
from phys4d.rewards.registry import REWARDS
from phys4d.rewards.spec import Generated
from phys4d.stages.policy import PolicyConfig, PolicyObjective, RewardName, Samples, add_policy
from phys4d.stages.spec import Drawn, Panel, Shares, StageSpec


class RewardGradientConfig(PolicyConfig):
    """The table [reward_gradient]; what is not here is as in `PolicyConfig`.

    gradient_steps: the last so many denoising steps are differentiated.
    """

    gradient_steps: int = Field(1, ge=1)

    @field_validator("reward")
    @classmethod
    def _has_a_gradient(cls, reward: RewardName) -> RewardName:
        if REWARDS[reward].differentiable is None:
            those = ", ".join(repr(name) for name, spec in REWARDS.items() if spec.differentiable is not None)
            raise ValueError(f"{reward!r} has no gradient: take one of {those}")
        return reward

    @model_validator(mode="after")
    def _steps_are_there(self) -> "RewardGradientConfig":
        if self.gradient_steps > self.steps:
            raise ValueError(f"gradient_steps: {self.gradient_steps} of {self.steps} steps: take at most {self.steps}")
        return self


class RewardGradientObjective(PolicyObjective):
    """One update: samples, the gradient of their rewards, and one optimizer step along it."""

    name = "reward_gradient"

    def __init__(
        self, config: RewardGradientConfig, model: WorldModel, parallel: Parallel, seed: int, clips: Clips | None = None
    ) -> None:
        if parallel.config.strategy == "deepspeed" and parallel.config.zero_stage != 2:
            raise UserError(
                "parallel.zero_stage: reward_gradient differentiates its reward within a step, for which DeepSpeed's "
                'stage 3 gathers no weights: set it to 2, or strategy to "fsdp"'
            )
        super().__init__(config, model, parallel, seed, clips)
        self._differentiable = REWARDS[config.reward].differentiable

    @staticmethod
    def prepare(model: WorldModel, config: RewardGradientConfig, seed: int) -> None:
        """Adds the policy's adapter over the frozen `finetune`; trains it, and nothing else."""
        add_policy("reward_gradient", model, config, seed)

    def batches(self, step: int) -> Sequence[Drawn]:
        """The conditions, and the clips of the diffusion loss."""
        conditions = Drawn(self.name, step, self.config.conditions)
        if self.config.flow_matching == 0:
            return [conditions]
        return [conditions, Drawn(self._matching, step, self.config.flow_matching_batch)]

    def leave_out_values(self) -> None:
        """Gives every sample a reward that is linear in what is read of it."""
        self._differentiable = lambda generated, true: torch.cat(
            [x.flatten(1) for x in (generated.video, generated.depth, generated.motion)], 1
        ).mean(1)

    def update(self, step: int, optimizer_step: OptimizerStep) -> dict[str, Tensor | float]:
        config, logged = self.config, Shares()
        conditions = self.clips.batch(config.conditions, self.parallel, self.seed, self.name, step, pixels=True)
        matching: Sequence[Batch] = []
        if config.flow_matching > 0:
            matching = self._matching_parts(step, step)
        losses: list[Loss] = [
            partial(self._reward_loss, part, conditions, logged) for part in self._samples(conditions, 1)
        ]
        losses += [partial(self._flow_matching, part) for part in matching]
        optimizer_step(losses)
        return logged.sums

    def _reward_loss(self, samples: Samples, conditions: Batch, logged: Shares) -> Tensor:
        """Minus the mean reward, with its gradient in the policy's weights."""
        batch, held = samples.batch, self.model.backbone.held
        latents = sample(
            self._policy(samples), samples.first[:, :, :held], batch.normal_like(samples.clean, "start"), self._sigmas,
            self.config.gradient_steps,
        )  # fmt: skip
        reward, gradient = self._ascent(latents.detach(), samples, conditions, logged)
        along = (latents * gradient).sum()
        return batch.share * (along.detach() - along - reward.mean())

    def _ascent(self, latents: Tensor, samples: Samples, conditions: Batch, logged: Shares) -> tuple[Tensor, Tensor]:
        """Rewards [B] of latents, and the gradient of their mean in the latents; logs the reward and `pixel_error`.

        Computed to the end here, backward pass and all, since what is computed again in it must find the policy's
        adapter off, as the first time.
        """
        assert self._differentiable is not None
        latents.requires_grad_()
        with torch.enable_grad(), without(self.model.backbone.transformer, POLICY):
            noise = samples.batch.normal_like(latents, "probe")
            geometry = self.model.read_geometry(latents, samples.batch.text, noise, first=samples.first)
            with recomputed(self.model.codec.chunked):
                video = self.model.codec.decode(latents).clamp(-1, 1)
            generated = Generated(video, geometry.depth, geometry.motion)
            true = conditions.take(samples.conditions, samples.batch.rng_keys)
            reward = self._differentiable(generated, true)
            (gradient,) = torch.autograd.grad(reward.mean(), latents)
        logged.add(samples.batch.share, reward=reward.mean(), pixel_error=pixel_error(video, true.video).mean())
        return reward.detach(), gradient


SPEC = StageSpec(
    name=RewardGradientObjective.name,
    config=RewardGradientConfig,
    objective=RewardGradientObjective,
    takes=("finetune",),
    arrays=RewardGradientObjective.arrays,
    samples=lambda config: config.conditions,
    divided=("conditions", "flow_matching_batch"),
    static_camera=lambda config: REWARDS[config.reward].static_camera,
    trains_reader=False,
    rewarded=True,
    summary="trained the generator along the gradient of the reward of its own clips",
    panels=(
        Panel("reward", "differentiable reward", "reward / m"),
        Panel("pixel_error", "pixel error of what changes", "RMSE"),
    ),
    parts=("grad_norm",),
)
