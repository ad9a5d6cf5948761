"""Supervised losses of the depth and motion heads.

They run as native code on a CPU where it is built, and as Triton kernels on CUDA, with the same bits in every run and
for any number of threads; elsewhere, and where target or weight require a gradient, as the definitions in plain
torch.
"""

from typing import Literal, NamedTuple

from torch import Tensor

from phys4d.kernels.dispatch import Backend, choose_backend, expect_one_device
from phys4d.kernels.geometry.losses.depth_ops import SCALES, depth_losses_op
from phys4d.kernels.geometry.losses.depth_reference import KINDS, depth_reference, trimmed
from phys4d.kernels.geometry.losses.flow_ops import flow_loss_op
from phys4d.kernels.geometry.losses.flow_reference import KINDS as FLOW_KINDS
from phys4d.kernels.geometry.losses.flow_reference import flow_reference
from phys4d.kernels.geometry.losses.scene_flow_ops import scene_flow_op
from phys4d.kernels.geometry.losses.scene_flow_reference import scene_flow_reference
from phys4d.kernels.geometry.shapes import expect_floating, expect_mask, expect_shape

DepthKind = Literal["log_l1", "silog", "scale_shift", "gradient"]
FlowKind = Literal["l1", "charbonnier", "epe", "laplace"]
Scope = Literal["frame", "clip"]


class DepthLosses(NamedTuple):
    """One scalar per kind of `depth_loss`."""

    log_l1: Tensor
    silog: Tensor
    scale_shift: Tensor
    gradient: Tensor


def depth_loss(
    predicted: Tensor, target: Tensor, valid: Tensor, *, weight: Tensor | None = None, kind: DepthKind = "log_l1",
    scope: Scope = "frame", trim: float = 0.0, invariance: float = 0.85, scales: int = 4, backend: Backend = "auto",
) -> Tensor:  # fmt: skip
    """The difference of two depth maps: by default the mean absolute log ratio (0.1: an error of ten percent).

    Args:
        predicted: [B, T, H, W], metres (scale_shift: any unit), positive where valid (float32 or float64).
        target: [B, T, H, W], metres; any value where not valid.
        valid: bool [B, T, H, W].
        weight: [B, T, H, W], not negative; the mean is then weighted (divided by the sum of the clip's weights).
            "gradient" ignores it.
        kind: "log_l1"; "silog", the spread of the log ratio; "scale_shift", the mean squared residual, in squared
            units of target, of the best s * predicted + t, in closed form; "gradient", differences of the log ratio
            between neighbours at several scales. The formulas and their sources are in `depth_reference`.
        scope: silog and scale_shift are computed per "frame", and averaged over frames, or over the whole "clip".
        trim: scale_shift leaves out this share of each group, the pixels with the largest residuals of a first fit, and
            fits again. An outlier that dominates the first fit has a small residual and is not left out.
        invariance: of silog to scale; at 1 the loss does not depend on the scale.
        scales: of gradient, from 1 to 8: scale k uses every 2^k-th row and column.
        backend: "native" (C++, CPU), "triton" (CUDA), "reference" (plain torch, differentiable twice, and in target
            and weight) or "auto": the kernel of the device where there is one.

    Returns:
        Scalar, the mean over clips of each clip's mean; 0 with zero gradient for a clip without a valid pixel.

    Raises:
        ValueError: a shape, dtype, device or option that does not fit, naming the argument.
        RuntimeError: a backend asked for by name that cannot serve, with the reason.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    _expect_pair(predicted, target, valid, weight)
    if not 0 <= trim < 1 or (trim and kind != "scale_shift"):
        raise ValueError(f"trim: expected a share from 0 to below 1, and only for scale_shift, got {trim} for {kind}")
    if trim:
        valid = trimmed(predicted, target, valid, weight, scope == "clip", trim)
    at = KINDS.index(kind)
    values = _depth_values(predicted, target, valid, weight, scope, invariance, scales, 1 << at, backend)
    return values[at].sum() / max(len(predicted), 1)


def depth_losses(
    predicted: Tensor, target: Tensor, valid: Tensor, *, weight: Tensor | None = None, scope: Scope = "frame",
    invariance: float = 0.85, scales: int = 4, backend: Backend = "auto",
) -> DepthLosses:  # fmt: skip
    """All kinds of `depth_loss` in one forward and one backward pass; arguments as there."""
    _expect_pair(predicted, target, valid, weight)
    values = _depth_values(predicted, target, valid, weight, scope, invariance, scales, 15, backend)
    return DepthLosses(*(values.sum(1) / max(len(predicted), 1)))


def flow_loss(
    predicted: Tensor, target: Tensor, valid: Tensor, *, weight: Tensor | None = None, kind: FlowKind = "l1",
    confidence: Tensor | None = None, backend: Backend = "auto",
) -> Tensor:  # fmt: skip
    """Distance of two motion fields, by default L1 summed over channels, averaged over valid pixels.

    Args:
        predicted: [B, C, ..., H, W]: (du, dv) in pixels with C = 2, or dz in metres with C = 1 (pixels and
            metres have their own masks and scales, so they go in separate calls).
        target: like predicted; any value where not valid.
        valid: bool [B, ..., H, W].
        weight: [B, ..., H, W], not negative; the mean is then weighted (divided by the sum of the clip's weights).
        kind: "l1"; "charbonnier", sqrt(d^2 + e^2) - e with e = 0.001 per channel; "epe", the Euclidean length over
            channels; "laplace", the negative log-likelihood of a mixture of two Laplace distributions per channel, of
            scale 1 and of a predicted scale (SEA-RAFT, Wang et al. 2024).
        confidence: for "laplace" [B, 2, ..., H, W]: the logit of the share of the first distribution, and the log of
            the second one's scale; it gets a gradient.
        backend: as in `depth_loss`.

    Returns:
        Scalar, the mean over clips of each clip's mean; 0 with zero gradient for a clip without a valid pixel.

    Raises:
        ValueError: a shape, dtype, device or option that does not fit, naming the argument.
        RuntimeError: a backend asked for by name that cannot serve, with the reason.
    """
    if predicted.ndim < 4:
        raise ValueError(f"predicted: expected shape [B, C, ..., H, W], got {list(predicted.shape)}")
    expect_floating("predicted", predicted)
    expect_shape("target", target, predicted.shape)
    pixels = (predicted.shape[0], *predicted.shape[2:])
    expect_mask("valid", valid, pixels)
    expect_one_device(
        "flow_loss", predicted=predicted, target=target, valid=valid, weight=weight, confidence=confidence
    )  # fmt: skip
    if weight is not None:
        expect_shape("weight", weight, pixels)
        weight = weight.to(predicted.dtype)
    if kind not in FLOW_KINDS:
        raise ValueError(f"kind: expected one of {', '.join(FLOW_KINDS)}, got {kind!r}")
    if (kind == "laplace") != (confidence is not None):
        raise ValueError(f'confidence: expected for kind "laplace" and no other, kind is "{kind}"')
    if confidence is not None:
        expect_shape("confidence", confidence, (pixels[0], 2, *pixels[1:]))
        confidence = confidence.to(predicted.dtype).flatten(2)
    target = target.to(predicted.dtype)
    served = choose_backend(backend, "flow_loss", predicted, {"target": target, "weight": weight})
    serve = flow_reference if served == "reference" else flow_loss_op
    flat = predicted.flatten(2), target.flatten(2), valid.flatten(1), None if weight is None else weight.flatten(1)
    return serve(*flat, confidence, kind)[0].sum() / max(len(predicted), 1)


def scene_flow_loss(
    depth: Tensor, motion: Tensor, true_depth: Tensor, true_motion: Tensor, valid: Tensor, intrinsics: Tensor, *,
    weight: Tensor | None = None, backend: Backend = "auto",
) -> Tensor:  # fmt: skip
    """Distance in metres of two scene flows: the 3D displacements of the points of all pixels, from depth and motion.

    Args:
        depth, true_depth: [B, T, H, W], metres (float32 or float64).
        motion, true_motion: [B, 3, T-1, H, W]: (du px, dv px, dz m) from t to t + 1.
        valid: bool [B, T-1, H, W]; other pixels may have any value.
        intrinsics: [B, T, 3, 3], as in `unproject`. Points are in the camera axes of their own frame.
        weight: [B, T-1, H, W], not negative; the mean is then weighted.
        backend: as in `depth_loss`; "reference" is differentiable in all of them.

    Returns:
        Scalar: the mean over clips of each clip's mean Euclidean distance; 0 with zero gradient for a clip without a
        valid pixel. A pixel without any error has gradient 0.

    Raises:
        ValueError: a shape, dtype or device that does not fit, naming the argument.
        RuntimeError: a backend asked for by name that cannot serve, with the reason.
    """
    expect_shape("depth", depth, ("B", "T", "H", "W"))
    expect_floating("depth", depth)
    clips, frames, *image = depth.shape
    pixels = (clips, frames - 1, *image)
    expect_shape("motion", motion, (clips, 3, *pixels[1:]))
    expect_shape("true_depth", true_depth, depth.shape)
    expect_shape("true_motion", true_motion, motion.shape)
    expect_mask("valid", valid, pixels)
    expect_shape("intrinsics", intrinsics, (clips, frames, 3, 3))
    expect_one_device(
        "scene_flow_loss", depth=depth, motion=motion, true_depth=true_depth, true_motion=true_motion, valid=valid,
        intrinsics=intrinsics, weight=weight,
    )  # fmt: skip
    if weight is not None:
        expect_shape("weight", weight, pixels)
        weight = weight.to(depth.dtype)
    fixed = {"true_depth": true_depth, "true_motion": true_motion, "weight": weight, "intrinsics": intrinsics}
    served = choose_backend(backend, "scene_flow_loss", depth, fixed)
    serve = scene_flow_reference if served == "reference" else scene_flow_op
    motion, true_depth, true_motion, intrinsics = (
        x.to(depth.dtype) for x in (motion, true_depth, true_motion, intrinsics)
    )
    return serve(depth, motion, true_depth, true_motion, valid, weight, intrinsics)[0].sum() / max(clips, 1)


def _expect_pair(predicted: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None) -> None:
    expect_shape("predicted", predicted, ("B", "T", "H", "W"))
    expect_floating("predicted", predicted)
    expect_shape("target", target, predicted.shape)
    expect_mask("valid", valid, predicted.shape)
    if weight is not None:
        expect_shape("weight", weight, predicted.shape)
    expect_one_device("depth_loss", predicted=predicted, target=target, valid=valid, weight=weight)


def _depth_values(
    predicted: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None,
    scope: str, invariance: float, scales: int, wanted: int, backend: str,
) -> Tensor:  # fmt: skip
    """[4, B], as of the operator."""
    if scope not in ("frame", "clip"):
        raise ValueError(f'scope: expected "frame" or "clip", got "{scope}"')
    if not 1 <= scales <= SCALES:
        raise ValueError(f"scales: expected from 1 to {SCALES}, got {scales}")
    target, weight = target.to(predicted.dtype), None if weight is None else weight.to(predicted.dtype)
    rest = (predicted, target, valid, weight, scope == "clip", float(invariance), scales, wanted)
    if choose_backend(backend, "depth_loss", predicted, {"target": target, "weight": weight}) == "reference":
        return depth_reference(*rest)
    return depth_losses_op(*rest)[0]
