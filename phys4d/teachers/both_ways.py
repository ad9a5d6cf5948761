"""The flow of a clip with the confidence that its reverse gives it; every flow teacher takes its mask from here."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from phys4d.kernels.geometry import forward_backward_mask

F = TypeVar("F")
_TOLERANCE = 0.5  # squared pixels of the frames on which a teacher works, as Sundaram et al. 2010 and UnFlow


def both_ways(
    frames: Sequence[F],
    size: tuple[int, int],
    between: Callable[[Sequence[F], Sequence[F]], np.ndarray],
    scale: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Flow from each frame to the next, and where the flow back from there returns to its start.

    Args:
        frames: of a clip, in any form.
        size: height and width of the clip.
        between: flow float32 [N, 2, height, width], pixels of the clip, from each of N frames to each of N others.
        scale: how much larger than the clip the frames are on which `between` works; the tolerated error is half a
            squared pixel of these.

    Returns flow float32 [2, T-1, height, width] and valid bool [T-1, height, width]; flow that is not finite is 0 and
    not valid.
    """
    if len(frames) < 2:
        return no_flow(size)
    first, second = frames[:-1], frames[1:]
    forward, backward = torch.from_numpy(between(first, second)), torch.from_numpy(between(second, first))
    return confirmed(forward, backward, scale)


def no_flow(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The flow of a clip of one frame, as `both_ways` returns it. size: height and width of the clip."""
    return np.zeros((2, 0, *size), np.float32), np.zeros((0, *size), bool)


def confirmed(forward: Tensor, backward: Tensor, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Flow, and where the flow back returns to its start.

    forward, backward: float32 [N, 2, height, width] in pixels of the clip, at least one. scale: as of `both_ways`, and
    so is what is returned.
    """
    finite = forward.isfinite().all(dim=1)
    forward = torch.where(finite[:, None], forward, 0)
    checked = [  # one frame at a time, so that its intermediate values are those of one frame
        forward_backward_mask(*pair, absolute=_TOLERANCE / scale**2)
        for pair in zip(forward.split(1), backward.split(1), strict=True)
    ]
    valid = finite & torch.cat(checked)
    return np.ascontiguousarray(forward.numpy().transpose(1, 0, 2, 3)), valid.numpy()
