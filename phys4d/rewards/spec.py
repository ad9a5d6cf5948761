"""What a reward is to the rest of the program: one `RewardSpec`, listed in `phys4d.rewards.registry`."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from phys4d.batch import Batch


@dataclass(frozen=True)
class Generated:
    """A generated clip with the geometry that the model reads off it.

    video: [B, 3, T, H, W] in [-1, 1]. depth: [B, T, H, W] metres. motion: [B, 3, T-1, H, W] (du px, dv px, dz m).
    """

    video: Tensor
    depth: Tensor
    motion: Tensor


@dataclass(frozen=True)
class RewardSpec:
    """A reward for the reinforcement phase.

    name: the value of `reward` in the run file's table [reinforce].
    score: (generated clips, the true clips that start from the same first frames) -> rewards [B]; higher is better.
        It is called without gradients.
    differentiable: the same with gradients, which stage `reward_gradient` follows; None: it has no such form.
    arrays: arrays of the true clips that it reads.
    static_camera: whether it has a meaning under a camera that stands still only.
    """

    name: str
    score: Callable[[Generated, Batch], Tensor]
    differentiable: Callable[[Generated, Batch], Tensor] | None = None
    arrays: tuple[str, ...] = ("depth", "motion")
    static_camera: bool = True
