"""What PPO makes of rewards and ratios: advantages within groups, the clipped surrogate, and the check of replays."""

from collections.abc import Sequence

import torch
from torch import Tensor

from phys4d.engine.distributed.parallel import Parallel
from phys4d.engine.random import uniform


def group_advantages(reward: Tensor, group: int, clip: float) -> tuple[Tensor, Tensor]:
    """Rewards [P * group], a group's together -> advantages [P * group] of mean 0 and deviation 1 within each group,
    clipped, and each group's standard deviation [P]. A group without variance gets advantages of zero."""
    grouped = reward.view(-1, group)
    spread = grouped.std(1)
    advantage = (grouped - grouped.mean(1, keepdim=True)) / (spread[:, None] + 1e-6)
    advantage = torch.where(spread[:, None] < 1e-6, torch.zeros_like(advantage), advantage)
    return advantage.clamp(-clip, clip).flatten(), spread


def shuffled(advantage: Tensor, group: int, rng_keys: Sequence[tuple[int | str, ...]]) -> Tensor:
    """Advantages [P * group] permuted within each group, by random numbers of their own, one key a sample."""
    drawn = torch.stack([uniform((), *key, "shuffle") for key in rng_keys]).to(advantage.device)
    return advantage.view(-1, group).gather(1, drawn.view(-1, group).argsort(1)).flatten()


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
