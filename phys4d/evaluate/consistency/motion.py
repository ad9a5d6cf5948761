"""Errors of motion: end-point error and outliers of the optical flow, end-point error of the scene flow.

`epe` is one value for each clip, float [B], NaN for a clip without pixels in the mask; the others are maps, of which
the suite takes means over what moves and what stands apart.
"""

import torch
from torch import Tensor

from phys4d.evaluate.consistency.averages import masked_mean
from phys4d.kernels.geometry import advect, unproject
from phys4d.kernels.geometry.unproject import into_world


def epe(motion: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """End-point error of optical flow in pixels: mean over the mask of the Euclidean length of (du, dv) - (du*, dv*).

    motion, truth: [B, 2 or 3, T-1, H, W]; a dz channel is ignored.
    mask: bool [B, T-1, H, W].
    """
    return masked_mean(motion_error(motion, truth), mask)


def motion_error(motion: Tensor, truth: Tensor) -> Tensor:
    """What `epe` is the mean of, in pixels: [B, T-1, H, W]. motion, truth: [B, 2 or 3, T-1, H, W]."""
    return _length(motion - truth)


def motion_outliers(motion: Tensor, truth: Tensor) -> Tensor:
    """Whether the flow is off by more than 3 px and by more than 5 % of the true flow's length, 1 or 0: [B, T-1, H, W].

    Its mean is Fl of KITTI 2015 (Menze and Geiger 2015).

    motion, truth: [B, 2 or 3, T-1, H, W]; a dz channel is ignored.
    """
    off = _length(motion - truth)
    return ((off > 3) & (off > 0.05 * _length(truth))).to(motion.dtype)


def scene_flow(depth: Tensor, motion: Tensor, intrinsics: Tensor, camera_to_world: Tensor | None = None) -> Tensor:
    """How far the point seen at each pixel moves from a frame to the next: [B, T-1, H, W, 3] metres.

    depth: [B, T, H, W], metres.
    motion: [B, 3, T-1, H, W].
    intrinsics: [B, T, 3, 3], pixels.
    camera_to_world: [B, T, 4, 4]: the motion is in world axes; None: in those of each frame's camera, which must then
        stand still to be left out of it.
    """
    before, after = unproject(depth, intrinsics)[:, :-1], advect(depth, motion, intrinsics)
    if camera_to_world is not None:
        before, after = into_world(before, camera_to_world[:, :-1]), into_world(after, camera_to_world[:, 1:])
    return after - before


def scene_flow_error(flow: Tensor, truth: Tensor) -> Tensor:
    """End-point error of scene flow in metres, the Euclidean distance (Menze and Geiger 2015): [B, T-1, H, W].

    flow, truth: [B, T-1, H, W, 3], of `scene_flow`.
    """
    return (flow - truth).square().sum(dim=-1).sqrt()


def _length(motion: Tensor) -> Tensor:
    """Lengths of the flow in pixels, [B, T-1, H, W]."""
    return torch.hypot(motion[:, 0], motion[:, 1])
