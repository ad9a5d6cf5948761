"""Reward "objects": as "changed", as a mean over the objects that the truth shows, each of equal weight."""

from torch import Tensor

from phys4d.batch import Batch
from phys4d.rewards.moving_points import score as points_score
from phys4d.rewards.spec import Generated, RewardSpec


def score(generated: Generated, truth: Batch) -> Tensor:
    """Rewards [B]."""
    return points_score(generated, truth, truth_instance=truth.arrays["instance"])


SPEC = RewardSpec(name="objects", score=score, arrays=("depth", "motion", "instance"))
