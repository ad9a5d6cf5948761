"""Nearest neighbours and Chamfer distances of point clouds.

    chamfer(X, Y) = mean_x min_y |x - y| + mean_y min_x |x - y|

the symmetric sum of mean un-squared distances of actionmesh's CD-3D/CD-4D (facebookresearch/actionmesh,
`actionbench/`), without alignment. Who is nearest is found without gradients; distances to the points found
are differentiable in both clouds.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from phys4d.kernels import native
from phys4d.kernels.geometry.shapes import expect_floating, expect_mask, expect_shape

Backend = Literal["auto", "native", "reference"]
_CHUNK = 1 << 22  # entries of a distance matrix held at once


def nearest(x: Tensor, y: Tensor, *, backend: Backend = "auto") -> tuple[Tensor, Tensor]:
    """For every point of x its nearest point of y.

    Args:
        x: [N, 3] (float32 or float64).
        y: [M, 3], same dtype and device, M >= 1 unless N is 0.
        backend: "native" (the compiled op), "reference" (torch, in chunks) or "auto": native where it is
            built and serves this dtype and device, else the reference.

    Returns:
        squared: [N] squared distances. Not differentiable: gather y by index for gradients, as `chamfer`
            does.
        index: [N] int64 into y; which of several equally near points is left open.

    Raises:
        ValueError: shapes or dtypes that do not fit, an unknown backend, or x not empty and y empty.
        RuntimeError: a backend asked for by name that cannot serve, with the reason.
    """
    expect_shape("x", x, ("N", 3))
    expect_shape("y", y, ("M", 3))
    expect_floating("x", x)
    if y.dtype != x.dtype or y.device != x.device:
        raise ValueError(f"y: expected {x.dtype} on {x.device} as x is, got {y.dtype} on {y.device}")
    if len(x) and not len(y):
        raise ValueError(f"y: expected at least one point for the {len(x)} points of x, got none")
    x, y = x.detach(), y.detach()
    if _chosen(backend, x) == "native":
        return native.nearest(x, y)
    rows = max(1, _CHUNK // max(1, len(y)))
    best = [_squared_distances(part, y).min(dim=1) for part in x.split(rows)] if len(x) else []
    if not best:
        return x.new_zeros(0), torch.zeros(0, dtype=torch.int64, device=x.device)
    return torch.cat([b.values for b in best]), torch.cat([b.indices for b in best])


def chamfer(
    x: Tensor,
    y: Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    squared: bool = False,
    cap: float | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Symmetric Chamfer distance of batches of (ragged) point clouds.

    Args:
        x: [B, N, 3], metres (float32 or float64).
        y: [B, M, 3], metres.
        x_lengths, y_lengths: int64 [B], the points that count, at the front of each row; the rest may be
            anything.
        squared: average squared distances instead of distances.
        cap: upper limit of the result per cloud, and its value where exactly one of the two clouds is empty.
        backend: as in `nearest`.

    Returns:
        [B]: mean distance x to y plus mean distance y to x. 0 with zero gradient where both clouds are empty,
        and without a cap also where one is (there is no distance to average).

    Raises:
        ValueError, RuntimeError: as in `nearest`; lengths out of range.
    """
    expect_shape("x", x, ("B", "N", 3))
    expect_floating("x", x)
    expect_shape("y", y, (len(x), "M", 3))
    x_counts = _counts("x_lengths", x_lengths, x)
    y_counts = _counts("y_lengths", y_lengths, y)
    _chosen(backend, x)
    toward_y = torch.zeros(x.shape[:2], dtype=torch.int64)
    toward_x = torch.zeros(y.shape[:2], dtype=torch.int64)
    for clip, (n, m) in enumerate(zip(x_counts, y_counts, strict=True)):
        if n and m:
            toward_y[clip, :n], toward_x[clip, :m] = _nearest_both_ways(x[clip, :n], y[clip, :m], backend)
    x_mask = torch.arange(x.shape[1]) < torch.tensor(x_counts)[:, None]
    y_mask = torch.arange(y.shape[1]) < torch.tensor(y_counts)[:, None]
    both = torch.tensor([n > 0 and m > 0 for n, m in zip(x_counts, y_counts, strict=True)])
    to_y = _mean_distance(x, y, toward_y.to(x.device), (x_mask & both[:, None]).to(x.device), squared)
    to_x = _mean_distance(y, x, toward_x.to(x.device), (y_mask & both[:, None]).to(x.device), squared)
    distance = to_y + to_x
    if cap is None:
        return distance
    one_sided = torch.tensor([(n > 0) != (m > 0) for n, m in zip(x_counts, y_counts, strict=True)])
    return torch.where(one_sided.to(x.device), cap, distance.clamp_max(cap))


def chamfer_4d(
    x: Tensor | Sequence[Tensor],
    y: Tensor | Sequence[Tensor],
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    squared: bool = False,
    cap: float | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """4D Chamfer distance: the mean over frames of each frame's `chamfer` (the cap holds per frame).

    Args:
        x, y: [B, T, N, 3] and [B, T, M, 3] metres with lengths int64 [B, T]; or, for one clip (B = 1), a
            sequence of T clouds [N_t, 3] each, without lengths.
        squared, cap, backend: as in `chamfer`.

    Returns:
        [B].

    Raises:
        ValueError, RuntimeError: as in `chamfer`; a different number of clips or frames on the two sides.
    """
    x, x_lengths = _padded("x", x, x_lengths)
    y, y_lengths = _padded("y", y, y_lengths)
    expect_shape("y", y, (*x.shape[:2], "M", 3))
    per_frame = chamfer(
        x.flatten(0, 1),
        y.flatten(0, 1),
        x_lengths=None if x_lengths is None else x_lengths.flatten(),
        y_lengths=None if y_lengths is None else y_lengths.flatten(),
        squared=squared,
        cap=cap,
        backend=backend,
    )
    return per_frame.view(x.shape[:2]).mean(dim=1)


def pack(points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Moves the masked points to the front of each row and drops the columns that no row needs.

    Args:
        points: [..., P, 3].
        mask: bool [..., P].

    Returns:
        packed: [..., N, 3] with N the largest count (at least 1), in the given order, rest arbitrary.
        lengths: int64 [...].
    """
    expect_mask("mask", mask, points.shape[:-1])
    expect_shape("points", points, (*mask.shape, 3))
    lengths = mask.sum(dim=-1)
    largest = max(1, int(lengths.max())) if lengths.numel() else 1
    order = (~mask).to(torch.uint8).argsort(dim=-1, stable=True)[..., :largest]
    return points.gather(-2, order.unsqueeze(-1).expand(*order.shape, 3)), lengths


def _chosen(backend: str, x: Tensor) -> str:
    if backend not in ("auto", "native", "reference"):
        raise ValueError(f'backend: expected "auto", "native" or "reference", got "{backend}"')
    if backend == "reference":
        return backend
    available, reason = native.status()
    if available and not _has_kernel(x.device):
        available, reason = False, f"{reason}; nothing for {x.device.type}"
    if backend == "native" and not available:
        raise RuntimeError(f"nearest: the native backend cannot serve {x.device}: {reason}")
    return "native" if available else "reference"


def _has_kernel(device: torch.device) -> bool:
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device.type)
    return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key("phys4d::nearest", key)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    # By differences: the |x|^2 + |y|^2 - 2xy form loses small distances to cancellation.
    total = (x[:, None, 0] - y[None, :, 0]).square_()
    for axis in (1, 2):
        total.add_((x[:, None, axis] - y[None, :, axis]).square_())
    return total


def _nearest_both_ways(x: Tensor, y: Tensor, backend: Backend) -> tuple[Tensor, Tensor]:
    if _chosen(backend, x) == "reference" and len(x) * len(y) <= _CHUNK:
        distances = _squared_distances(x.detach(), y.detach())
        return distances.min(dim=1).indices, distances.min(dim=0).indices
    return nearest(x, y, backend=backend)[1], nearest(y, x, backend=backend)[1]


def _mean_distance(x: Tensor, y: Tensor, index: Tensor, mask: Tensor, squared: bool) -> Tensor:
    if not x.shape[1] or not y.shape[1]:
        return x[:, :0].sum(dim=(1, 2)) + y[:, :0].sum(dim=(1, 2))
    target = y.gather(1, index.unsqueeze(-1).expand(*index.shape, 3))
    distance = torch.where(mask.unsqueeze(-1), x - target, 0).square().sum(dim=-1)
    if not squared:
        # A square root has no slope at 0: coinciding points get gradient 0.
        apart = distance > 0
        distance = torch.where(apart, torch.where(apart, distance, 1).sqrt(), 0)
    return distance.sum(dim=1) / mask.sum(dim=1).clamp_min(1)


def _counts(name: str, lengths: Tensor | None, cloud: Tensor) -> list[int]:
    if lengths is None:
        return [cloud.shape[1]] * len(cloud)
    expect_shape(name, lengths, (len(cloud),))
    counts = [int(count) for count in lengths.tolist()]
    if any(not 0 <= count <= cloud.shape[1] for count in counts):
        raise ValueError(f"{name}: expected counts from 0 to {cloud.shape[1]}, got {counts}")
    return counts


def _padded(name: str, cloud: Tensor | Sequence[Tensor], lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if isinstance(cloud, Tensor):
        expect_shape(name, cloud, ("B", "T", "N", 3))
        if lengths is not None:
            expect_shape(f"{name}_lengths", lengths, cloud.shape[:2])
        return cloud, lengths
    if lengths is not None:
        raise ValueError(f"{name}_lengths: expected none, since a sequence of clouds knows its own lengths")
    counts = torch.tensor([[len(frame) for frame in cloud]])
    return pad_sequence(list(cloud), batch_first=True).unsqueeze(0), counts
