"""The rigid or similarity transform between corresponding points with the least squared error, in closed form."""

from typing import NamedTuple

import torch
from torch import Tensor

from phys4d.kernels.dispatch import expect_one_device
from phys4d.kernels.geometry.shapes import expect_floating, expect_mask, expect_shape


class Alignment(NamedTuple):
    """p -> scale * rotation @ p + translation; called on points [B, ..., 3], entry b transforms the points of clip b.

    scale [B], rotation [B, 3, 3] (determinant +1), translation [B, 3] metres.
    """

    scale: Tensor
    rotation: Tensor
    translation: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        """The transformed points, in the same shape; differentiable in the points."""
        flat = points.flatten(1, -2)
        turned = flat @ self.rotation.to(points.dtype).mT * self.scale.to(points.dtype)[:, None, None]
        return (turned + self.translation.to(points.dtype)[:, None]).view_as(points)


@torch.no_grad()
def umeyama(x: Tensor, y: Tensor, valid: Tensor | None = None, *, scaled: bool = False) -> Alignment:
    """The transform of x with the least mean squared distance to y, point i to point i. Never a reflection.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", PAMI 13(4), 1991,
    equations 40 to 42. Computed in float64 and without gradients.

    Args:
        x, y: [B, P, 3] metres (float32 or float64), P corresponding points.
        valid: bool [B, P]; points where it is false may have any value.
        scaled: also fits a scale (similarity); else the scale is 1 (rigid).

    Returns:
        float64 `Alignment` of x to y. Where it is not unique (collinear points) one of the best; for a cloud in one
        place the scale is 1 and the rotation is the identity; without valid points it is the identity.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit; a valid point that is not finite.
    """
    expect_shape("x", x, ("B", "P", 3))
    expect_floating("x", x)
    expect_shape("y", y, x.shape)
    expect_one_device("umeyama", x=x, y=y, valid=valid)
    if valid is None:
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    expect_mask("valid", valid, x.shape[:2])
    kept = valid[..., None]
    x, y = (torch.where(kept, cloud.double(), 0) for cloud in (x, y))
    for name, cloud in (("x", x), ("y", y)):
        if not cloud.isfinite().all():
            raise ValueError(f"{name}: expected finite points where valid")
    count = kept.sum(dim=1).clamp_min(1)
    x_mean, y_mean = x.sum(dim=1) / count, y.sum(dim=1) / count
    rounding = [1e-12 * cloud.abs().flatten(1).amax(dim=1) if cloud.shape[1] else count[:, 0] for cloud in (x, y)]
    x, y = (torch.where(kept, cloud - mean[:, None], 0) for cloud, mean in ((x, x_mean), (y, y_mean)))
    u, spread, v = torch.linalg.svd(y.mT @ x / count[..., None])
    proper = torch.ones_like(spread)
    proper[:, 2] = torch.where(torch.linalg.det(u) * torch.linalg.det(v) < 0, -1, 1)
    rotation = u * proper[:, None] @ v
    variances = [(cloud.square().sum(dim=(1, 2)) / count[:, 0]) for cloud in (x, y)]
    apart = (variances[0] > rounding[0].square()) & (variances[1] > rounding[1].square())
    fitted = (spread * proper).sum(dim=1) / torch.where(apart, variances[0], 1)
    rotation = torch.where(apart[:, None, None], rotation, torch.eye(3, dtype=x.dtype, device=x.device))
    scale = torch.where(apart, fitted, 1) if scaled else torch.ones_like(fitted)
    return Alignment(scale, rotation, y_mean - scale[:, None] * (rotation @ x_mean[..., None])[..., 0])
