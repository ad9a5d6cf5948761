"""Backward warp: samples a video at the end points of its flow."""

from typing import Literal

from torch import Tensor

from phys4d.kernels.dispatch import Backend, choose_backend, expect_one_device
from phys4d.kernels.geometry.shapes import expect_floating, expect_shape
from phys4d.kernels.geometry.warps.flow_warp_ops import flow_warp_op
from phys4d.kernels.geometry.warps.flow_warp_reference import flow_warp_reference


def flow_warp(
    frames: Tensor, flow: Tensor, *, border: Literal["zero", "clamp"] = "zero", backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    """Samples every frame bilinearly at x + flow(x): `F.grid_sample(align_corners=True)` with deterministic gradients.

    To warp frame t + 1 back to frame t, pass frames[:, :, 1:] and motion[:, :2].

    Args:
        frames: [B, C, T, H, W], any number of channels (float32 or float64).
        flow: [B, 2, T, H, W], (du, dv) in pixels: pixel (row, column) reads its frame at (row + dv, column + du).
        border: "zero" counts pixels outside the image as 0, as padding_mode="zeros" does; "clamp" reads the border
            there, and flow gets no gradient along that axis.
        backend: "native" (C++, CPU), "triton" (CUDA), "reference" (plain torch, differentiable twice) or "auto": the
            kernel of the device where there is one.

    Returns:
        warped: [B, C, T, H, W], differentiable in frames and flow; 0 without a gradient where flow is NaN. On CUDA the
            gradient of frames is summed in integers per clip: its error is at most 2^-40 of the largest incoming
            gradient, and it is NaN where that is not finite.
        inside: bool [B, T, H, W], where all four neighbouring pixel centres exist, for either border.

    Raises:
        ValueError: a shape, dtype, device, border or backend that does not fit.
        RuntimeError: a backend asked for by name that cannot serve, with the reason.
    """
    expect_shape("frames", frames, ("B", "C", "T", "H", "W"))
    expect_floating("frames", frames)
    expect_shape("flow", flow, (len(frames), 2, *frames.shape[2:]))
    expect_one_device("flow_warp", frames=frames, flow=flow)
    if border not in ("zero", "clamp"):
        raise ValueError(f'border: expected "zero" or "clamp", got "{border}"')
    arguments = frames, flow.to(frames.dtype), None, None, 0.0, border == "clamp"
    if choose_backend(backend, "flow_warp", frames) == "reference":
        return flow_warp_reference(*arguments)
    warped, inside = flow_warp_op(*arguments)
    return warped, inside
