"""Stage `reinforce`: PPO on a second LoRA, rewarded by the 4D Chamfer distance of what moves to simulator truth."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from phys4d.batch import Batch
from phys4d.clips import Clips
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.training.loop import Loss, OptimizerStep
from phys4d.models.lora import POLICY, without
from phys4d.models.world import WorldModel
from phys4d.rewards.pixel_error import pixel_error
from phys4d.rewards.registry import REWARDS
from phys4d.rewards.spec import Generated
from phys4d.stages.flow_sde import Transition, gaussian_kl, log_probability, rollout, step_distribution
from phys4d.stages.policy import PolicyObjective, Samples, add_policy
from phys4d.stages.ppo import check_replay, clipped_policy_loss, group_advantages, shuffled
from phys4d.stages.reinforce_config import ReinforceConfig
from phys4d.stages.spec import Drawn, Panel, Shares, StageSpec


class ReinforceObjective(PolicyObjective):
    """One update: rollouts, rewards, advantages within groups, then one clipped step per stochastic denoising step."""

    name = "reinforce"

    def __init__(
        self, config: ReinforceConfig, model: WorldModel, parallel: Parallel, seed: int, clips: Clips | None = None
    ) -> None:
        super().__init__(config, model, parallel, seed, clips)
        self._ratio_checked = False
        self._score = REWARDS[config.reward].score

    @staticmethod
    def prepare(model: WorldModel, config: ReinforceConfig, seed: int) -> None:
        """Adds the adapter `reinforce` over the frozen `finetune`; trains it, and nothing else."""
        add_policy("reinforce", model, config, seed)

    def batches(self, step: int) -> Sequence[Drawn]:
        """The conditions, and the clips of the diffusion loss for each drawn step."""
        count = self.config.stochastic_steps if self.config.flow_matching > 0 else 0
        size = self.config.flow_matching_batch
        matching = [Drawn(self._matching, self._draw(step, k), size) for k in range(count)]
        return [Drawn(self.name, step, self.config.conditions), *matching]

    def leave_out_values(self) -> None:
        """Leaves out the check of replays, and gives every sample the reward 0."""
        self._ratio_checked = True
        self._score = lambda generated, true: generated.depth.new_zeros(len(generated.depth))

    def update(self, step: int, optimizer_step: OptimizerStep) -> dict[str, Tensor | float]:
        config, logged = self.config, Shares()
        # The reward looks at the pixels of the conditions.
        conditions = self.clips.batch(config.conditions, self.parallel, self.seed, self.name, step, pixels=True)
        for k in range(config.stochastic_steps if config.flow_matching > 0 else 0):  # before a weight changes
            self.clips.fetch(config.flow_matching_batch, self.parallel, self.seed, self._matching, self._draw(step, k))
        parts = self._samples(conditions, config.group)
        with self.parallel.gathered(self.model.backbone.transformer):
            drawn = [self._rollout(part) for part in parts]
            if not self._ratio_checked:
                self._check_replay(parts, [transitions for _, transitions in drawn])
            rewards = [self._reward(drawn[i][0], part, conditions, logged) for i, part in enumerate(parts)]
        reward = torch.cat(rewards)
        advantage, spread = group_advantages(reward, config.group, config.advantage_clip)
        if config.shuffled_advantages:
            advantage = shuffled(advantage, config.group, [key for part in parts for key in part.batch.rng_keys])
        logged.add(
            self.parallel.share,
            reward=reward.mean(),
            reward_group_std=spread.mean(),
            zero_variance_share=(spread < 1e-6).float().mean(),
        )
        advantages = advantage.split([len(part.conditions) for part in parts])
        for k in range(config.stochastic_steps):
            of_step = [transitions[k] for _, transitions in drawn]
            self._train(of_step, k, step, parts, advantages, optimizer_step, logged)
        return logged.sums

    def _rollout(self, samples: Samples) -> tuple[Tensor, list[Transition]]:
        config, batch, clean = self.config, samples.batch, samples.clean
        return rollout(
            self._policy(samples),
            samples.first[:, :, : self.model.backbone.held],
            lambda use: self._noise(batch, clean, use),
            sigmas=self._sigmas,
            stochastic_steps=config.stochastic_steps,
            noise_level=config.noise_level,
            sampler=config.sampler,
            dimensions=config.dimensions,
        )

    def _noise(self, batch: Batch, latents: Tensor, use: str) -> Tensor:
        if use == "start" and self.config.shared_start:
            batch = replace(batch, rng_keys=[key[:-1] for key in batch.rng_keys])
        return batch.normal_like(latents, use)

    def _check_replay(self, parts: list[Samples], drawn: list[list[Transition]]) -> None:
        """`check_replay` of every drawn step; once, since it costs one more evaluation of each."""
        ratios = [
            [self._ratio(t, part)[0].detach() for t in steps] for part, steps in zip(parts, drawn, strict=True)
        ]
        check_replay([torch.cat(of_step) for of_step in zip(*ratios, strict=True)], self.parallel)
        self._ratio_checked = True

    @torch.no_grad()
    def _reward(self, latents: Tensor, samples: Samples, conditions: Batch, logged: Shares) -> Tensor:
        """Rewards [B]; logs `pixel_error`, and the mean |log ratio| of the depths of each group's first clip read with
        the policy's adapter acting and off: how far its features have left those that the heads know.

        Depth and motion of the rewards are read by the fine-tuned model, with that adapter off.
        """
        batch = samples.batch
        noise = batch.normal_like(latents, "probe")
        geometry = self.model.read_geometry(latents, batch.text, noise, first=samples.first)
        if own := [i for i, key in enumerate(batch.rng_keys) if key[-1] == 0]:
            drifted = self.model.read_geometry(
                latents[own], batch.text[own], noise[own], first=samples.first[own], drifted=True
            )
            drift = (drifted.depth / geometry.depth[own]).log().abs().mean()
            logged.add(self.parallel.share * len(own) / len(conditions.rng_keys), head_drift=drift)
        video = self.model.codec.decode(latents).clamp(-1, 1)
        true = conditions.take(samples.conditions, batch.rng_keys)
        logged.add(batch.share, pixel_error=pixel_error(video, true.video).mean())
        return self._score(Generated(video, geometry.depth, geometry.motion), true)

    def _train(
        self,
        transitions: list[Transition],
        k: int,
        step: int,
        parts: list[Samples],
        advantages: Sequence[Tensor],
        optimizer_step: OptimizerStep,
        logged: Shares,
    ) -> None:
        """One optimizer step on the drawn step k of all samples, and on clips of the diffusion loss."""
        ratios: list[Tensor] = []
        losses: list[Loss] = [
            partial(self._policy_loss, transition, part, advantage, ratios, logged)
            for transition, part, advantage in zip(transitions, parts, advantages, strict=True)
        ]
        if self.config.flow_matching > 0:
            matching = self._matching_parts(self._draw(step, k), step)
            losses += [partial(self._flow_matching, part) for part in matching]
        optimizer_step(losses)
        ratio = torch.cat(ratios)
        logged.add(
            self.parallel.share / self.config.stochastic_steps,
            ratio=ratio.mean(),
            ratio_std=ratio.std(),
            clip_fraction=((ratio - 1).abs() > self.config.clip).float().mean(),
        )

    def _policy_loss(
        self, t: Transition, samples: Samples, advantage: Tensor, ratios: list[Tensor], logged: Shares
    ) -> Tensor:
        config, batch = self.config, samples.batch
        ratio, mean, deviation = self._ratio(t, samples)
        ratios.append(ratio.detach())
        policy = clipped_policy_loss(ratio, advantage, config.clip)
        loss, kl = policy, ratio.new_zeros(())
        if config.kl > 0:
            with torch.no_grad(), without(self.model.backbone.transformer, POLICY):
                reference, _ = self._step_mean(t, samples)
            kl = gaussian_kl(mean, reference, deviation, config.dimensions, self.model.backbone.held).mean()
            loss = loss + config.kl * kl
        logged.add(batch.share / config.stochastic_steps, policy_loss=policy, kl=kl)
        return batch.share * loss

    def _ratio(self, t: Transition, samples: Samples) -> tuple[Tensor, Tensor, float]:
        """The probability of a drawn step now over that when it was drawn [B], and the step's mean and deviation."""
        mean, deviation = self._step_mean(t, samples)
        held = self.model.backbone.held
        logprob = log_probability(t.after, mean, deviation, self.config.dimensions, held)
        return torch.exp(logprob - t.logprob), mean, deviation

    def _step_mean(self, t: Transition, samples: Samples) -> tuple[Tensor, float]:
        sigma = t.before.new_full((len(t.before),), t.sigma)
        velocity = self._policy(samples)(t.before, sigma).velocity
        noise_level, sampler = self.config.noise_level, self.config.sampler
        return step_distribution(velocity, t.before, t.sigma, t.following, noise_level, sampler)

    def _draw(self, step: int, k: int) -> int:
        """Number of the flow-matching batch of the optimizer step k of an update."""
        return step * self.config.stochastic_steps + k


SPEC = StageSpec(
    name=ReinforceObjective.name,
    config=ReinforceConfig,
    objective=ReinforceObjective,
    takes=("finetune",),
    arrays=ReinforceObjective.arrays,
    samples=lambda config: config.conditions * config.group,
    divided=("conditions", "flow_matching_batch"),
    static_camera=lambda config: REWARDS[config.reward].static_camera,
    trains_reader=False,
    rewarded=True,
    summary="trained the generator on the reward of its own clips",
    panels=(
        Panel("reward", "reward", "reward / m", spread="reward_group_std"),
        Panel("pixel_error", "pixel error of what changes", "RMSE"),
        Panel("ratio_std", "ratio, std", "std of the ratio"),
        Panel("clip_fraction", "clip fraction", "share of ratios clipped"),
        Panel("kl", "KL to finetune", "KL"),
        Panel("head_drift", "head drift", "mean |log ratio| of depth"),
    ),
    parts=("grad_norm",),
)
