"""Reward "changed": minus the 4D Chamfer distance, in metres, of what changed since the first frame."""

from typing import Any

from torch import Tensor

from phys4d.batch import Batch
from phys4d.rewards.moving_chamfer import moving_chamfer
from phys4d.rewards.spec import Generated, RewardSpec


def score(generated: Generated, truth: Batch, **options: Any) -> Tensor:
    """Rewards [B] of generated clips against `truth`, the true ones; options are those of `moving_chamfer`."""
    reward, _ = moving_chamfer(
        generated.video,
        generated.depth,
        generated.motion,
        truth_video=truth.video,
        truth_depth=truth.arrays["depth"],
        truth_motion=truth.arrays["motion"],
        intrinsics=truth.intrinsics,
        **options,
    )
    return reward


SPEC = RewardSpec(name="changed", score=score)
