"""Chamfer distances of moving clouds: per frame, in space-time, along tracks, and per object.

    chamfer_4d            distance of the surfaces in every frame; does not see which point moved where
    chamfer_spacetime     with time as a fourth axis, scaled in metres per second: measures delay too
    chamfer_motion        nearest neighbours are found in frame 0 and kept: measures where each point moves
    chamfer_objects       every object of the truth has the same weight, whatever its number of points

None of them aligns the clouds. To compare shape or relative motion only, align first, by the pixels of frame 0:

    fit = umeyama(points[:, 0].flatten(1, 2), truth[:, 0].flatten(1, 2), valid[:, 0].flatten(1), scaled=True)
    distance = chamfer_4d(fit(x), y, x_lengths=n, y_lengths=m)
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from phys4d.kernels.dispatch import Backend, expect_backward_mode, expect_one_device
from phys4d.kernels.geometry.clouds.chamfer import chamfer, nearest
from phys4d.kernels.geometry.clouds.chamfer_ops import chamfer_op, held_op
from phys4d.kernels.geometry.shapes import expect_floating, expect_shape


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
        x, y: [B, T, N, 3] and [B, T, M, 3] metres; or, for one clip (B = 1), a sequence of T clouds [N_t, 3] each,
            without lengths.
        x_lengths, y_lengths: int64 [B, T], points of each cloud; None for all.
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


def chamfer_spacetime(
    x: Tensor,
    y: Tensor,
    x_times: Tensor,
    y_times: Tensor,
    *,
    speed: float,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    squared: bool = False,
    cap: float | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Chamfer distance of whole clips as clouds of (x, y, z, speed * t): a point may be matched to another moment.

    Args:
        x, y: [B, T, N, 3] and [B, S, M, 3] metres (float32 or float64); the clips may have different frames.
        x_times, y_times: [T] and [S] seconds.
        speed: metres per second, more than 0: the distance that one second of delay counts as. A large one compares
            frames of equal time only, a small one hardly counts delay.
        x_lengths, y_lengths: int64 [B, T] and [B, S], the number of valid points of each frame, which are first.
        squared, cap, backend: as in `chamfer`; the cap holds per clip.

    Returns:
        [B], metres (or their squares), once differentiable in x, y and the times.

    Raises:
        ValueError, RuntimeError: as in `chamfer`; a speed that is not positive.
    """
    if not speed > 0:
        raise ValueError(f"speed: expected more than 0 m/s, got {speed}")
    expect_shape("x", x, ("B", "T", "N", 3))
    expect_shape("y", y, (len(x), "S", "M", 3))
    (x, n), (y, m) = _spacetime("x", x, x_times, x_lengths, speed), _spacetime("y", y, y_times, y_lengths, speed)
    return chamfer(x, y, x_lengths=n, y_lengths=m, squared=squared, cap=cap, backend=backend)


def chamfer_motion(
    x: Tensor,
    y: Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    squared: bool = False,
    backend: Backend = "auto",
) -> Tensor:
    """Chamfer distance of tracks: the nearest neighbour of each point is found in frame 0 and kept in every frame.

    The mean over all frames, with the first, of the symmetric sum (CD-M of facebookresearch/actionmesh, `actionbench/`,
    without its alignment).

    Args:
        x, y: [B, T, N, 3] and [B, T, M, 3] metres (float32 or float64): point i of every frame is the same point.
        x_lengths, y_lengths: int64 [B], the number of valid tracks, which are first.
        squared, backend: as in `chamfer`.

    Returns:
        [B], once differentiable; 0 with zero gradient where a side has no tracks.

    Raises:
        ValueError, RuntimeError: as in `chamfer`; a different number of clips or frames, or none.
    """
    expect_shape("x", x, ("B", "T", "N", 3))
    expect_floating("x", x)
    expect_shape("y", y, (*x.shape[:2], "M", 3))
    if y.dtype != x.dtype or y.device != x.device:
        raise ValueError(f"y: expected {x.dtype} on {x.device} as x is, got {y.dtype} on {y.device}")
    expect_one_device("chamfer_motion", x=x, y=y, x_lengths=x_lengths, y_lengths=y_lengths)
    expect_backward_mode("chamfer_motion")
    batch, frames = x.shape[:2]
    if not frames:
        raise ValueError("x: expected at least one frame, got none")
    counts = []
    for name, lengths, cloud in (("x_lengths", x_lengths, x), ("y_lengths", y_lengths, y)):
        if lengths is None:
            lengths = torch.full((batch,), cloud.shape[2], dtype=torch.int64, device=x.device)
        expect_shape(name, lengths, (batch,))
        counts.append(lengths.to(torch.int64))
    _, *partners = chamfer_op(x[:, 0].detach(), y[:, 0].detach(), *counts, squared, backend)
    every = [t.repeat_interleave(frames, dim=0) for t in (*counts, *partners)]
    return held_op(x.flatten(0, 1), y.flatten(0, 1), *every, squared, backend).view(batch, frames).mean(dim=1)


@torch.no_grad()
def chamfer_objects(
    x: Tensor,
    y: Tensor,
    objects: Tensor,
    *,
    x_lengths: Tensor | None = None,
    y_lengths: Tensor | None = None,
    cap: float | None = None,
) -> Tensor:
    """The mean of the Chamfer distances of the objects in y, all with the same weight.

    A point of x belongs to the object of its nearest point of y. For an object to which no point of x belongs, the mean
    distance from the object to x counts twice.

    Args:
        x, y: [B, N, 3] and [B, M, 3] metres (float32 or float64).
        objects: [B, M], the label of the object of each point of y.
        x_lengths, y_lengths: int64 [B], the number of valid points, which are first.
        cap: upper limit of the result per pair, and its value where exactly one side is empty.

    Returns:
        [B], not differentiable; 0 where both sides are empty, and without a cap also where one is.

    Raises:
        ValueError: shapes or dtypes that do not fit.
    """
    expect_shape("x", x, ("B", "N", 3))
    expect_shape("y", y, (len(x), "M", 3))
    expect_shape("objects", objects, y.shape[:2])
    expect_one_device("chamfer_objects", x=x, y=y, objects=objects, x_lengths=x_lengths, y_lengths=y_lengths)
    n = [x.shape[1]] * len(x) if x_lengths is None else x_lengths.tolist()
    m = [y.shape[1]] * len(y) if y_lengths is None else y_lengths.tolist()
    rows = [_by_object(x[b, : n[b]], y[b, : m[b]], objects[b, : m[b]], cap) for b in range(len(x))]
    return torch.stack(rows) if rows else x.new_zeros(0)


def _by_object(x: Tensor, y: Tensor, objects: Tensor, cap: float | None) -> Tensor:
    if not len(x) or not len(y):
        return y.new_tensor(cap if cap is not None and (len(x) or len(y)) else 0.0)
    from_y, _ = nearest(y, x)
    from_x, at = nearest(x, y)
    distances = []
    for name in objects.unique():
        to_x, to_y = from_y[objects == name].sqrt().mean(), from_x[objects[at] == name].sqrt()
        distances.append(to_x + (to_y.mean() if len(to_y) else to_x))
    mean = torch.stack(distances).mean()
    return mean if cap is None else mean.clamp_max(cap)


def _spacetime(
    name: str, cloud: Tensor, times: Tensor, lengths: Tensor | None, speed: float
) -> tuple[Tensor, Tensor | None]:
    """[B, T * N, 4] with the valid points first, and their number [B] (None: all)."""
    batch, frames, points = cloud.shape[:3]
    expect_shape(f"{name}_times", times, (frames,))
    expect_one_device("chamfer_spacetime", **{name: cloud, f"{name}_times": times, f"{name}_lengths": lengths})
    moments = (speed * times.to(cloud.dtype))[None, :, None, None].expand(batch, frames, points, 1)
    flat = torch.cat((cloud, moments), dim=-1).flatten(1, 2)
    if lengths is None:
        return flat, None
    expect_shape(f"{name}_lengths", lengths, (batch, frames))
    counted = (torch.arange(points, device=cloud.device) < lengths[..., None]).flatten(1)
    order = (~counted).to(torch.uint8).argsort(dim=1, stable=True)
    return flat.gather(1, order.unsqueeze(-1).expand(*order.shape, 4)), counted.sum(dim=1)


def _padded(name: str, cloud: Tensor | Sequence[Tensor], lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if isinstance(cloud, Tensor):
        expect_shape(name, cloud, ("B", "T", "N", 3))
        if lengths is not None:
            expect_shape(f"{name}_lengths", lengths, cloud.shape[:2])
        return cloud, lengths
    if lengths is not None:
        raise ValueError(f"{name}_lengths: expected none, since a sequence of clouds knows its own lengths")
    padded = pad_sequence(list(cloud), batch_first=True).unsqueeze(0)
    return padded, torch.tensor([[len(frame) for frame in cloud]], device=padded.device)
