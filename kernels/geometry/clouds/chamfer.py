"""Nearest neighbours and Chamfer distances of point clouds.

    chamfer(X, Y) = mean_x min_y |x - y| + mean_y min_x |x - y|

the symmetric sum of mean un-squared distances of actionmesh's CD-3D/CD-4D (facebookresearch/actionmesh,
`actionbench/`), without alignment. The search for nearest neighbours has no gradient; the distances to them are
differentiable in both clouds.
"""

import torch
from torch import Tensor

from phys4d.kernels.dispatch import Backend, expect_backward_mode, expect_one_device
from phys4d.kernels.geometry.clouds.chamfer_ops import chamfer_op
from phys4d.kernels.geometry.clouds.chamfer_reference import nearest_reference
from phys4d.kernels.geometry.clouds.nearest_native import nearest_native
from phys4d.kernels.geometry.clouds.neighbours import Search, one_way, plan
from phys4d.kernels.geometry.shapes import expect_floating, expect_mask, expect_shape


def nearest(x: Tensor, y: Tensor, *, backend: Backend = "auto", search: Search = "auto") -> tuple[Tensor, Tensor]:
    """The nearest point of y for every point of x.

    Args:
        x: [N, 3] (float32 or float64).
        y: [M, 3], same dtype and device, M >= 1 unless N is 0.
        backend, search: as in `chamfer`.

    Returns:
        squared: [N] squared distances, without a gradient: gather y by index for gradients, as `chamfer` does.
        index: [N] int64 into y; of equally near points the lowest index. A NaN distance is never the nearest; where all
            distances are NaN the index is 0.

    Raises:
        ValueError: shapes or dtypes that do not fit, an unknown backend or search, or x not empty and y empty.
        RuntimeError: a backend or search asked for by name that cannot serve, with the reason.
    """
    expect_shape("x", x, ("N", 3))
    expect_shape("y", y, ("M", 3))
    expect_floating("x", x)
    _expect_like("y", y, x)
    if len(x) and not len(y):
        raise ValueError(f"y: expected at least one point for the {len(x)} points of x, got none")
    x, y = x.detach(), y.detach()
    name, way = plan("nearest", backend, search, x[None], y[None])
    if name == "reference":
        return nearest_reference(x, y)
    if name == "native":
        return nearest_native(x, y, way)
    lengths = [torch.full((1,), len(cloud), dtype=torch.int64, device=x.device) for cloud in (x, y)]
    squares, index = one_way(name, way, x[None].contiguous(), y[None].contiguous(), *lengths)
    return squares[0], index[0]


def chamfer(
    x: Tensor,
    y: Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    squared: bool = False,
    cap: float | None = None,
    backend: Backend = "auto",
    search: Search = "auto",
) -> Tensor:
    """Symmetric Chamfer distance of batches of (ragged) point clouds.

    Exact, with memory linear in the number of points. Large clouds are searched through trees: on the CPU by native
    code, on CUDA by native code where it was built for CUDA, else by Triton. No call synchronises with the device.
    Deterministic: the same bits in every run, on any number of threads; all backends and searches find the same
    neighbours.

    Args:
        x: [B, N, 3], metres (float32 or float64); or [B, N, 4] with both clouds in space-time.
        y: [B, M, 3 or 4], as x.
        x_lengths, y_lengths: int64 [B] on the clouds' device, the number of valid points, which are first in each row;
            the others may have any value.
        squared: average squared distances instead of distances.
        cap: upper limit of the result per cloud, and its value where exactly one of the two clouds is empty.
        backend: "native" (compiled; on CUDA its gradients are Triton's), "triton", "reference" (torch, in chunks) or
            "auto".
        search: "exhaustive" (all pairs), "tree" or "auto", by backend and size of the clouds.

    Returns:
        [B]: mean distance x to y plus mean distance y to x, once differentiable. 0 with zero gradient where both
        clouds are empty, and without a cap also where one is (there is no distance to average). Points that coincide
        have gradient 0. Squares are computed in the clouds' dtype: in float32 distances under 1e-22 are 0 and over 1e19
        infinite. A valid point with NaN coordinates is never a nearest neighbour; it makes the distance of its pair of
        clouds, and its own gradient, NaN, and does not change other pairs of the batch.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, an unknown backend or search, lengths out of range (for
            lengths on a GPU a device-side assertion, since the call does not wait for the device).
        RuntimeError: a backend or search asked for by name that cannot serve, with the reason; a call inside
            torch.func.grad, torch.func.jvp or forward-mode differentiation.
    """
    expect_shape("x", x, ("B", "N", 4 if x.ndim == 3 and x.shape[2] == 4 else 3))
    expect_floating("x", x)
    expect_shape("y", y, (len(x), "M", x.shape[2]))
    _expect_like("y", y, x)
    expect_one_device("chamfer", x=x, y=y, x_lengths=x_lengths, y_lengths=y_lengths)
    expect_backward_mode("chamfer")
    n, m = _lengths("x_lengths", x_lengths, x), _lengths("y_lengths", y_lengths, y)
    distance = chamfer_op(x, y, n, m, squared, backend, search)[0]
    if cap is None:
        return distance
    return torch.where((n > 0) != (m > 0), cap, distance.clamp_max(cap))


def pack(points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Moves the masked points to the front of each row and drops the columns that no row needs.

    Args:
        points: [..., P, 3].
        mask: bool [..., P].

    Returns:
        packed: [..., N, 3] with N the largest count (at least 1), in the given order; the rest is arbitrary.
        lengths: int64 [...].
    """
    expect_mask("mask", mask, points.shape[:-1])
    expect_shape("points", points, (*mask.shape, 3))
    expect_one_device("pack", points=points, mask=mask)
    lengths = mask.sum(dim=-1)
    largest = max(1, int(lengths.max())) if lengths.numel() else 1
    order = (~mask).to(torch.uint8).argsort(dim=-1, stable=True)[..., :largest]
    return points.gather(-2, order.unsqueeze(-1).expand(*order.shape, 3)), lengths


def _expect_like(name: str, tensor: Tensor, other: Tensor) -> None:
    if tensor.dtype != other.dtype or tensor.device != other.device:
        raise ValueError(
            f"{name}: expected {other.dtype} on {other.device} as x is, got {tensor.dtype} on {tensor.device}"
        )


def _lengths(name: str, lengths: Tensor | None, cloud: Tensor) -> Tensor:
    if lengths is None:
        return torch.full((len(cloud),), cloud.shape[1], dtype=torch.int64, device=cloud.device)
    expect_shape(name, lengths, (len(cloud),))
    return lengths.to(torch.int64)
