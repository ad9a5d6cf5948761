"""The definition of the scene flow loss in plain torch, against which the kernels are tested."""

import torch
from torch import Tensor

from phys4d.kernels.geometry.losses.flow_reference import flow_reference
from phys4d.kernels.geometry.unproject import advect, unproject


def scene_flow_reference(
    depth: Tensor, motion: Tensor, true_depth: Tensor, true_motion: Tensor, valid: Tensor, weight: Tensor | None,
    intrinsics: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The loss and the sum of weights of each clip [B]; arguments as of `scene_flow_loss`."""

    def flow(depth: Tensor, motion: Tensor) -> Tensor:
        # Ones outside the mask: values there enter neither points nor gradients.
        before = depth[:, :-1].where(valid, 1)
        with_last = torch.cat((before, torch.ones_like(depth[:, :1])), 1)  # advect does not read the last frame
        after = advect(with_last, motion.where(valid.unsqueeze(1), 0), intrinsics)
        return (after - unproject(before, intrinsics[:, :-1])).movedim(-1, 1).flatten(2)

    flat = None if weight is None else weight.flatten(1)
    return flow_reference(flow(depth, motion), flow(true_depth, true_motion), valid.flatten(1), flat, None, "epe")
