"""Forward warp with a depth buffer: pixels move by their flow, and the nearest of each target pixel is visible."""

from typing import NamedTuple

from torch import Tensor

from phys4d.kernels.dispatch import Backend, choose_backend, expect_one_device
from phys4d.kernels.geometry.shapes import expect_floating, expect_mask, expect_shape
from phys4d.kernels.geometry.warps.splat_ops import splat_op
from phys4d.kernels.geometry.warps.splat_reference import splat_reference


class Splat(NamedTuple):
    """The image after the motion.

    values: [B, C, T, H, W]; depth: [B, T, H, W] metres; both 0 in holes, where no pixel lands.
    index: int64 [B, T, H, W], the source pixel (row * W + column) of the same frame; -1 in holes.
    """

    values: Tensor
    depth: Tensor
    index: Tensor  # type: ignore[assignment]  # instead of a tuple's method of that name


def splat(
    values: Tensor, flow: Tensor, depth: Tensor, valid: Tensor | None = None, *, backend: Backend = "auto"
) -> Splat:
    """Moves every pixel of every frame by its flow, into the pixel that contains its landing point.

    Of several pixels that land in one the nearest is visible; of equally near ones that with the lowest index.

    Args:
        values: [B, C, T, H, W] of the pixels; any number of channels, also 0.
        flow: [B, 2, T, H, W], (du, dv) in pixels. It gets no gradient: the visible pixels are piecewise constant in it.
        depth: [B, T, H, W], metres AFTER the motion (float32 or float64), for motion: depth[:, :-1] + motion[:, 2].
            Only a pixel of depth above 0 moves.
        valid: bool [B, T, H, W]; other pixels do not move. Pixels that do not move may have any value, also NaN.
        backend: "native" (C++, CPU), "triton" (CUDA), "reference" (plain torch, differentiable twice) or "auto": the
            kernel of the device where there is one.

    Returns:
        `Splat`, in depth's dtype, differentiable in values and depth: each source is visible in one pixel at most. The
        same bits in every run, for any number of threads.

    Raises:
        ValueError: a shape, dtype, device or backend that does not fit.
        RuntimeError: a backend asked for by name that cannot serve, with the reason.
    """
    expect_shape("depth", depth, ("B", "T", "H", "W"))
    expect_floating("depth", depth)
    clips, *sizes = depth.shape
    expect_shape("values", values, (clips, "C", *sizes))
    expect_shape("flow", flow, (clips, 2, *sizes))
    if valid is not None:
        expect_mask("valid", valid, depth.shape)
    expect_one_device("splat", values=values, flow=flow, depth=depth, valid=valid)
    arguments = values.to(depth.dtype), flow.detach().to(depth.dtype), depth, valid
    if choose_backend(backend, "splat", depth) == "reference":
        return Splat(*splat_reference(*arguments))
    return Splat(*splat_op(*arguments))
