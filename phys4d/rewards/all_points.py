"""Reward "all": minus the 4D Chamfer distance, in metres, of all points; nearly blind to motion, for comparison."""

from functools import partial

from phys4d.rewards.moving_points import score
from phys4d.rewards.spec import RewardSpec

SPEC = RewardSpec(name="all", score=partial(score, points="all"), static_camera=False)
