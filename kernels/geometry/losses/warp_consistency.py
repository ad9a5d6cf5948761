"""Warp consistency: depth at t, moved by the predicted motion, must equal the depth at t + 1."""

from typing import Literal, overload

from torch import Tensor

from phys4d.kernels.dispatch import Backend, choose_backend, expect_one_device
from phys4d.kernels.geometry.losses.warp_ops import warp_op
from phys4d.kernels.geometry.losses.warp_reference import LOSSES, sample_depth, warp_reference, warp_residual
from phys4d.kernels.geometry.shapes import expect_floating, expect_mask, expect_shape

__all__ = ["sample_depth", "warp_consistency", "warp_residual"]

Loss = Literal["l1", "charbonnier", "relative", "squared"]
Border = Literal["mask", "clamp"]


@overload
def warp_consistency(
    depth: Tensor, motion: Tensor, visible: Tensor | None, *, weight: Tensor | None = None, loss: Loss = "l1",
    truth: Tensor | None = None, z_test: float | None = None, border: Border = "mask",
    report: Literal[False] = False, backend: Backend = "auto",
) -> Tensor:  # fmt: skip
    """Returns the loss."""


@overload
def warp_consistency(
    depth: Tensor, motion: Tensor, visible: Tensor | None, *, weight: Tensor | None = None, loss: Loss = "l1",
    truth: Tensor | None = None, z_test: float | None = None, border: Border = "mask",
    report: Literal[True], backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Returns the loss and the share of unused pixels."""


def warp_consistency(
    depth: Tensor, motion: Tensor, visible: Tensor | None, *, weight: Tensor | None = None, loss: Loss = "l1",
    truth: Tensor | None = None, z_test: float | None = None, border: Border = "mask",
    report: bool = False, backend: Backend = "auto",
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """The warp-consistency loss of the fine-tuning phase (Phys4D), in the forward form with both sides predicted.

    With `truth` it is the backward warp of the Phys4D authors' Sim4VideoGen: D_t(x - flow) + dz against true depth at
    t + 1. There dz is 0, loss is "squared", border is "clamp", and z is interpolated where this function interpolates
    1/z.

    Args:
        depth, motion: as in `warp_residual`.
        visible: bool [B, T-1, H, W], from the truth or a teacher: whether the surface point of a pixel at t is visible
            at t + 1; in the backward form, whether that of a pixel at t + 1 is visible at t. `forward_backward_mask`
            computes one from flow in both directions. None: then `z_test` is 0.05 if not given.
        weight: [B, T-1, H, W], not negative; the mean is then weighted (divided by the sum of the clip's weights).
        loss: "l1" |r| in metres; "charbonnier" sqrt(r^2 + e^2) - e with e = 1 mm; "relative" |r| over the
            moved depth (detached, so that larger depth does not lower the loss); "squared" r^2.
        truth: [B, T, H, W], metres, true depth: selects the backward form. It gets no gradient.
        z_test: share of the moved depth by which the sampled depth may be nearer before the point counts as hidden. It
            compares detached depth, but the prediction still determines which pixels count: watch `report`.
        border: "mask" leaves out points that land outside the image; "clamp" samples the border for them, so that a
            prediction cannot lower its loss by moving points out of the image.
        report: also return the share of unused pixels.
        backend: "native" (C++, CPU), "triton" (CUDA), "reference" (plain torch, differentiable twice, and in weight)
            or "auto": the kernel of the device where there is one.

    Returns:
        Scalar: the mean over clips of each clip's mean over its used pixels; 0 with zero gradient for a clip without
        any. With `report` also the share [B] of the clip's pixels that were not used, because of visibility, border,
        missing surface or z-test. The kernels give the same bits in every run, for any number of threads.

    Raises:
        ValueError: a shape, dtype, device, loss, border or backend that does not fit.
        RuntimeError: a backend asked for by name that cannot serve, with the reason.
    """
    expect_shape("depth", depth, ("B", "T", "H", "W"))
    expect_floating("depth", depth)
    clips, frames, height, width = depth.shape
    pixels = (clips, frames - 1, height, width)
    expect_shape("motion", motion, (clips, 3, *pixels[1:]))
    expect_one_device(
        "warp_consistency", depth=depth, motion=motion, visible=visible, weight=weight, truth=truth
    )  # fmt: skip
    if visible is not None:
        expect_mask("visible", visible, pixels)
    if weight is not None:
        expect_shape("weight", weight, pixels)
        weight = weight.to(depth.dtype)
    if truth is not None:
        expect_shape("truth", truth, depth.shape)
        truth = truth.detach().to(depth.dtype)
    if loss not in LOSSES:
        raise ValueError(f'loss: expected {", ".join(map(repr, LOSSES))}, got "{loss}"'.replace("'", '"'))
    if border not in ("mask", "clamp"):
        raise ValueError(f'border: expected "mask" or "clamp", got "{border}"')
    if z_test is not None and not 0 <= z_test < 1:
        raise ValueError(f"z_test: expected a share from 0 to below 1, got {z_test}")
    if z_test is None:
        z_test = 0.05 if visible is None else -1.0
    arguments = depth, motion.to(depth.dtype), visible, weight, truth, loss, z_test, border == "clamp"
    if choose_backend(backend, "warp_consistency", depth, {"weight": weight}) == "reference":
        each, _, used = warp_reference(*arguments)
    else:
        each, _, used, _ = warp_op(*arguments)
    value = each.sum() / max(clips, 1)
    if not report:
        return value
    return value, 1 - used / max((frames - 1) * height * width, 1)
