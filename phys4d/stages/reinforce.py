"""Stage `reinforce`: PPO on a second LoRA, rewarded by the 4D Chamfer distance of what moves to simulator truth."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from phys4d.bad_clips import OnBad
from phys4d.clips import Batch, Clips
from phys4d.engine.config import Config
from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.resume import Movable
from phys4d.engine.training.loop import LoopConfig, OptimizerConfig
from phys4d.models.flow import noised
from phys4d.models.lora import POLICY, add_adapter, without
from phys4d.models.world import WorldModel
from phys4d.rewards.registry import REWARDS
from phys4d.rewards.spec import Generated
from phys4d.stages.flow_sde import Sampler, Transition, gaussian_kl, log_probability, rollout, step_distribution
from phys4d.stages.spec import Panel, StageSpec

if TYPE_CHECKING:
    RewardName = str
else:
    RewardName = Literal[tuple(REWARDS)]


class ReinforceConfig(Config):
    """The table [reinforce].

    data: folder of a simulated dataset with truth.
    on_bad: "stop" ends the stage at a clip that cannot be used and names it; "skip" takes another one in its place.
    rank: of the policy's LoRA; alpha is equal to it.
    conditions: clips per update over all ranks, each of which gives a first frame and a caption.
    group: samples drawn for each of them; advantages are normalised within this group.
    steps: denoising steps of a sample.
    stochastic_steps: the first so many of them are drawn, and trained on.
    noise_level: of the drawn steps, without unit; for "cps" from above 0 to 1.
    sampler: how steps are drawn, "flow_sde", or "cps", which keeps the proportion of noise at few steps (figures in
        `stages/flow_sde.py`).
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
    optimizer: learning rate, schedule, clipping and averaging.
    loop: updates, and intervals of logs and checkpoints.
    """

    data: Movable
    on_bad: OnBad = "stop"
    rank: int = Field(16, ge=1)
    conditions: int = Field(4, ge=1)
    group: int = Field(6, ge=2)
    steps: int = Field(6, ge=2)
    stochastic_steps: int = Field(3, ge=1)
    noise_level: float = Field(0.7, gt=0)
    sampler: Sampler = "flow_sde"
    shared_start: bool = True
    reward: RewardName = "changed"
    clip: float = Field(0.2, gt=0)
    dimensions: float = Field(1e4, gt=0)
    advantage_clip: float = Field(3.0, gt=0)
    shuffled_advantages: bool = False
    kl: float = Field(0.01, ge=0)
    flow_matching: float = Field(1.0, ge=0)
    flow_matching_batch: int = Field(6, ge=1)
    optimizer: OptimizerConfig
    loop: LoopConfig

    @model_validator(mode="after")
    def _steps_can_be_drawn(self) -> Self:
        if self.stochastic_steps >= self.steps:
            raise ValueError("stochastic_steps must be below steps: the last step, to sigma 0, is deterministic")
        if self.sampler == "cps" and self.noise_level > 1:
            raise ValueError(f"noise_level: {self.noise_level} for sampler = \"cps\": choose one above 0 and up to 1")
        return self


class ReinforceObjective:
    """One update: rollouts, rewards, advantages within groups, then one clipped step per stochastic denoising step."""

    name = "reinforce"

    def __init__(self, config: ReinforceConfig, model: WorldModel, parallel: Parallel, seed: int) -> None:
        self.config, self.model, self.parallel, self.seed = config, model, parallel, seed
        self.clips = Clips(config.data, SPEC.arrays(config), model.text, model.grid, on_bad=config.on_bad)
        self._ratio_checked = False
        self._matching = f"{self.name} flow matching"

    @staticmethod
    def prepare(model: WorldModel, config: ReinforceConfig, seed: int) -> None:
        """Adds the adapter `reinforce` over the frozen `finetune`; trains it, and nothing else."""
        backbone = model.backbone
        add_adapter(backbone.transformer, POLICY, config.rank, seed, backbone.lora_targets)
        model.heads.requires_grad_(False)

    def modules(self) -> dict[str, nn.Module]:
        return {"transformer": self.model.backbone.transformer}

    def parameter_groups(self) -> list[dict]:
        trained = [p for p in self.model.backbone.transformer.parameters() if p.requires_grad]
        return [{"name": "adapter", "params": trained, "lr_scale": 1.0}]

    def update(self, step: int, optimizer_step: Callable[[Tensor], Tensor]) -> dict[str, Tensor | float]:
        config = self.config
        batch, clean = self._conditions(step)
        for k in range(config.stochastic_steps if config.flow_matching > 0 else 0):  # before a weight changes
            self.clips.fetch(config.flow_matching_batch, self.parallel, self.seed, self._matching, self._draw(step, k))
        latents, transitions = rollout(
            lambda noisy, sigma: self.model.predict(noisy, sigma, batch.text),
            clean[:, :, :1],
            lambda use: self._noise(batch, clean, use),
            steps=config.steps,
            shift=self.model.config.sampling_shift,
            stochastic_steps=config.stochastic_steps,
            noise_level=config.noise_level,
            sampler=config.sampler,
            dimensions=config.dimensions,
        )
        if not self._ratio_checked:
            check_replay([self._ratio(t, batch)[0].detach() for t in transitions], self.parallel)
            self._ratio_checked = True
        reward, drift = self._reward(latents, batch)
        advantage, spread = group_advantages(reward, config.group, config.advantage_clip)
        if config.shuffled_advantages:
            advantage = shuffled(advantage, config.group, batch)
        reports = [self._train(t, k, step, batch, advantage, optimizer_step) for k, t in enumerate(transitions)]
        means = {name: torch.stack([torch.as_tensor(r[name]) for r in reports]).mean() for name in reports[0]}
        return {
            "reward": reward.mean(),
            "reward_group_std": spread.mean(),
            "zero_variance_share": (spread < 1e-6).float().mean(),
            "head_drift": drift,
            **means,
        }

    def _conditions(self, step: int) -> tuple[Batch, Tensor]:
        """The step's clips and their latents, each encoded once and repeated `group` times with random numbers of its
        own."""
        batch = self.clips.batch(self.config.conditions, self.parallel, self.seed, self.name, step)
        g = self.config.group
        clean = self.model.codec.encode(batch.video).repeat_interleave(g, 0)
        repeated = Batch(
            video=batch.video.repeat_interleave(g, 0),
            text=batch.text.repeat_interleave(g, 0),
            arrays={name: a.repeat_interleave(g, 0) for name, a in batch.arrays.items()},
            intrinsics=batch.intrinsics.repeat_interleave(g, 0),
            rng_keys=[(*key, member) for key in batch.rng_keys for member in range(g)],
        )
        return repeated, clean

    def _noise(self, batch: Batch, latents: Tensor, use: str) -> Tensor:
        if use == "start" and self.config.shared_start:
            groups = replace(batch, rng_keys=[key[:-1] for key in batch.rng_keys[:: self.config.group]])
            return groups.normal_like(latents, use).repeat_interleave(self.config.group, 0)
        return batch.normal_like(latents, use)

    @torch.no_grad()
    def _reward(self, latents: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Rewards [B], and the mean |log ratio| of the depths of each group's first clip read with the policy's adapter
        acting and off: how far its features have left those that the heads know.

        Depth and motion of the rewards are read by the fine-tuned model, with that adapter off.
        """
        noise = batch.normal_like(latents, "probe")
        geometry = self.model.read_geometry(latents, batch.text, noise)
        g = self.config.group
        drifted = self.model.read_geometry(latents[::g], batch.text[::g], noise[::g], drifted=True)
        drift = (drifted.depth / geometry.depth[::g]).log().abs().mean()
        video = self.model.codec.decode(latents).clamp(-1, 1)
        generated = Generated(video, geometry.depth, geometry.motion)
        return REWARDS[self.config.reward].score(generated, batch), drift

    def _train(
        self,
        transition: Transition,
        k: int,
        step: int,
        batch: Batch,
        advantage: Tensor,
        optimizer_step: Callable[[Tensor], Tensor],
    ) -> dict[str, Tensor | float]:
        config, t = self.config, transition
        ratio, mean, deviation = self._ratio(t, batch)
        policy = clipped_policy_loss(ratio, advantage, config.clip)
        loss, kl = policy, ratio.new_zeros(())
        if config.kl > 0:
            with torch.no_grad(), without(self.model.backbone.transformer, POLICY):
                reference, _ = self._step_mean(t, batch)
            kl = gaussian_kl(mean, reference, deviation, config.dimensions).mean()
            loss = loss + config.kl * kl
        if config.flow_matching > 0:
            loss = loss + config.flow_matching * self._flow_matching(step, k)
        optimizer_step(loss)
        ratio = ratio.detach()
        return {
            "policy_loss": policy.detach(),
            "kl": kl.detach(),
            "ratio": ratio.mean(),
            "ratio_std": ratio.std(),
            "clip_fraction": ((ratio - 1).abs() > config.clip).float().mean(),
        }

    def _ratio(self, t: Transition, batch: Batch) -> tuple[Tensor, Tensor, float]:
        """The probability of a drawn step now over that when it was drawn [B], and the step's mean and deviation."""
        mean, deviation = self._step_mean(t, batch)
        logprob = log_probability(t.after, mean, deviation, self.config.dimensions)
        return torch.exp(logprob - t.logprob), mean, deviation

    def _step_mean(self, t: Transition, batch: Batch) -> tuple[Tensor, float]:
        sigma = t.before.new_full((len(t.before),), t.sigma)
        velocity = self.model.predict(t.before, sigma, batch.text).velocity
        noise_level, sampler = self.config.noise_level, self.config.sampler
        return step_distribution(velocity, t.before, t.sigma, t.following, noise_level, sampler)

    def _draw(self, step: int, k: int) -> int:
        """Number of the flow-matching batch of the optimizer step k of an update."""
        return step * self.config.stochastic_steps + k

    def _flow_matching(self, step: int, k: int) -> Tensor:
        size = self.config.flow_matching_batch
        batch = self.clips.batch(size, self.parallel, self.seed, self._matching, self._draw(step, k), step)
        clean = self.model.codec.encode(batch.video)
        noise = batch.normal_like(clean, "noise")
        sigma = self.model.training_sigma(batch.uniform("sigma"))
        prediction = self.model.predict(noised(clean, noise, sigma), sigma, batch.text)
        return self.model.backbone.diffusion_loss(prediction, clean, noise)


def group_advantages(reward: Tensor, group: int, clip: float) -> tuple[Tensor, Tensor]:
    """Rewards [P * group], a group's together -> advantages [P * group] of mean 0 and deviation 1 within each group,
    clipped, and each group's standard deviation [P]. A group without variance gets advantages of zero."""
    grouped = reward.view(-1, group)
    spread = grouped.std(1)
    advantage = (grouped - grouped.mean(1, keepdim=True)) / (spread[:, None] + 1e-6)
    advantage = torch.where(spread[:, None] < 1e-6, torch.zeros_like(advantage), advantage)
    return advantage.clamp(-clip, clip).flatten(), spread


def shuffled(advantage: Tensor, group: int, batch: Batch) -> Tensor:
    """Advantages [P * group] permuted within each group, by random numbers of their own."""
    order = batch.uniform("shuffle").view(-1, group).argsort(1)
    return advantage.view(-1, group).gather(1, order).flatten()


def clipped_policy_loss(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's clipped surrogate (Schulman et al. 2017, equation 7), negated: ratio, advantage [B] -> scalar."""
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


def check_replay(ratios: Sequence[Tensor], parallel: Parallel, tolerance: float = 1e-4) -> None:
    """RuntimeError, on all ranks, unless every ratio [B] of every drawn step is 1 within float error.

    ratios: one [B] per drawn step, replayed before any weight changes in the first update of a run or of a resumed run;
    that costs one more evaluation of the backbone per drawn step, once. Replaying a step must give the log-probability
    it was drawn with; where it does not, rollout and training disagree (batch shape, precision, adapters, timesteps)
    and every later ratio is wrong. A collective over the ranks of `parallel`; tolerance: of |ratio - 1|.
    """
    off = torch.stack([(ratio - 1).abs().max() for ratio in ratios]).tolist()
    broken = [k for k, value in enumerate(off) if not value <= tolerance]
    if parallel.any(bool(broken)):
        where = "on another rank"
        if broken:
            where = f"drawn step {broken[0] + 1} of {len(off)}: off by {off[broken[0]]:.2e}"
        raise RuntimeError(
            f"reinforce: the first update's probability ratios are not 1 (within {tolerance:.0e}): {where}: "
            "the policy that is trained is not the policy that drew the samples; the run stops"
        )


SPEC = StageSpec(
    name=ReinforceObjective.name,
    config=ReinforceConfig,
    objective=ReinforceObjective,
    takes=("finetune",),
    arrays=lambda config: REWARDS[config.reward].arrays,
    samples=lambda config: config.conditions * config.group,
    divided=("conditions", "flow_matching_batch"),
    static_camera=lambda config: REWARDS[config.reward].static_camera,
    trains_reader=False,
    rewarded=True,
    summary="trained the generator on the reward of its own clips",
    panels=(
        Panel("reward", "reward", "reward / m", spread="reward_group_std"),
        Panel("ratio_std", "ratio, std", "std of the ratio"),
        Panel("clip_fraction", "clip fraction", "share of ratios clipped"),
        Panel("kl", "KL to finetune", "KL"),
        Panel("head_drift", "head drift", "mean |log ratio| of depth"),
    ),
    parts=("grad_norm",),
)
