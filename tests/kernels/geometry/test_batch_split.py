"""Every clip counts the same: the loss of a batch is the mean of its parts' losses, however much each part masks."""

import torch

from phys4d.kernels.geometry import depth_loss, flow_loss, warp_consistency


def test_losses_of_a_batch_are_the_mean_over_its_halves() -> None:
    torch.manual_seed(0)
    depth, target = torch.rand(2, 4, 3, 6, 6, dtype=torch.float64) + 0.5
    motion, true_motion = torch.randn(2, 4, 3, 2, 6, 6, dtype=torch.float64) * 0.3
    share = torch.tensor([0.1, 0.9, 0.5, 0.0]).view(4, 1, 1, 1)
    valid, visible = torch.rand(4, 3, 6, 6) < share, torch.rand(4, 2, 6, 6) < share
    weight = torch.rand(4, 3, 6, 6, dtype=torch.float64)

    def losses(part: slice) -> torch.Tensor:
        return torch.stack([
            depth_loss(depth[part], target[part], valid[part], weight=weight[part]),
            flow_loss(motion[part], true_motion[part], visible[part]),
            warp_consistency(depth[part], motion[part], visible[part], weight=weight[part, :2]),
        ])  # fmt: skip

    torch.testing.assert_close(losses(slice(None)), (losses(slice(0, 2)) + losses(slice(2, 4))) / 2)
