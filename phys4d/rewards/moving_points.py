"""Reward "changed": minus the 4D Chamfer distance, in metres, of what changed since the first frame."""

from typing import Any

from torch import Tensor

from phys4d.batch import Batch
from phys4d.rewards.expected_chamfer import expected_chamfer
from phys4d.rewards.moving_chamfer import moving_chamfer
from phys4d.rewards.spec import Generated, RewardSpec


def score(generated: Generated, truth: Batch, **options: Any) -> Tensor:
    """Rewards [B] of generated clips against `truth`, the true ones; options are those of `moving_chamfer`."""
    reward, _ = moving_chamfer(generated.video, generated.depth, generated.motion, **_true(truth), **options)
    return reward


def differentiable(generated: Generated, truth: Batch) -> Tensor:
    """Rewards [B] as expectations, with gradients."""
    return expected_chamfer(generated.video, generated.depth, generated.motion, **_true(truth))


def _true(truth: Batch) -> dict[str, Any]:
    arrays = truth.arrays
    return {
        "truth_video": truth.video, "truth_depth": arrays["depth"], "truth_motion": arrays["motion"],
        "intrinsics": truth.intrinsics,
    }  # fmt: skip


SPEC = RewardSpec(name="changed", score=score, differentiable=differentiable)
