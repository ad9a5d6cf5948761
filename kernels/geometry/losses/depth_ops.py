"""The depth losses as torch operators: all of them from one pass over the pair, all gradients from another.

Kernels give sums per frame and take slopes per frame: native ones on a CPU where they are built, else the definition
serves there; Triton on CUDA, which the interpreter brings to the CPU. What the losses make of sums and slopes is a few
numbers per frame, done here.
"""

from typing import Any

import torch
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.dispatch import autocast_to_float32, cpu_kernel, differentiable_once, launch
from phys4d.kernels.geometry.losses import depth_kernels
from phys4d.kernels.geometry.losses.depth_kernels import MOST_SCALES as SCALES
from phys4d.kernels.geometry.losses.depth_kernels import SLOPES, SUMS
from phys4d.kernels.geometry.losses.depth_reference import FLAT, KINDS, depth_reference
from phys4d.kernels.geometry.planes import with_planes

TILE, ROW = (8, 128), (1, 2048)  # rows and columns of a program's pixels: with differences of neighbours, and without


def forward(
    predicted: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None,
    per_clip: bool, invariance: float, scales: int, wanted: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """[4, B], each loss of each clip in the order of `KINDS`, 0 where not wanted; and sums for backward.

    Args:
        predicted, target: [B, T, H, W], float32 or float64; valid: bool; weight: like predicted.
        per_clip: groups are clips, else frames. invariance: of silog. scales: of gradient, at most 8.
        wanted: bits 1, 2, 4, 8, as in `KINDS`.

    The sums are float64 [B, T, 25], and hold nothing where the definition serves.
    """
    inputs, numbers, grid, options = launch_arguments(predicted, target, valid, weight, scales, wanted)
    tiles, frames, clips = grid
    partial = predicted.new_zeros((clips, frames, tiles, SUMS), dtype=torch.float64)
    if partial.numel():
        launch(depth_kernels.forward_kernel, grid, *inputs, partial, *numbers, **options)
    sums = _merged(partial)
    return _losses(sums, per_clip, invariance, scales, wanted).to(predicted.dtype), sums


def launch_arguments(
    predicted: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None, scales: int, wanted: int
) -> tuple[list[Tensor], list[int], tuple[int, int, int], dict[str, Any]]:
    """What both kernels share: tensors with contiguous planes, sizes and strides, programs per frame, options."""
    clips, frames, height, width = predicted.shape
    planes = [with_planes(x) for x in (predicted, target, valid.view(torch.uint8))]
    planes.append(planes[0] if weight is None else with_planes(weight))
    options: dict[str, Any] = {kind.upper(): wanted >> bit & 1 == 1 for bit, kind in enumerate(KINDS)}
    rows, columns = TILE if options["GRADIENT"] else ROW
    if not options["GRADIENT"]:
        height, width, scales = min(height, 1), height * width, 0
    across = -(-width // columns)
    numbers = [height, width, across]
    for x in planes:
        numbers += x.stride()[:2]
    options |= {"SCALES": scales, "HAS_WEIGHT": weight is not None, "ROWS": rows, "COLUMNS": columns, "num_warps": 4}
    return planes, numbers, (across * -(-height // rows), frames, clips), options


def _merged(sums: Tensor) -> Tensor:
    """[..., 25] of the parts [..., n, 25] of a whole: moments are brought about its means (Chan et al. 1979)."""
    weight, added = sums[..., :1], sums.sum(-2)
    means = torch.stack((sums[..., 2], sums[..., 4], sums[..., 5]), -1)
    mean = (weight / _positive(weight.sum(-2, keepdim=True)) * means).sum(-2, keepdim=True)
    off_g, off_p, off_d = (means - mean).split(1, -1)
    between = (weight * torch.cat((off_g * off_g, off_p * off_p, off_p * off_d, off_d * off_d), -1)).sum(-2)
    mean = mean.squeeze(-2)
    return torch.cat(
        (
            added[..., :2], mean[..., :1], added[..., 3:4] + between[..., :1], mean[..., 1:],
            added[..., 6:9] + between[..., 1:], added[..., 9:],
        ), -1,
    )  # fmt: skip


def _losses(sums: Tensor, per_clip: bool, invariance: float, scales: int, wanted: int) -> Tensor:
    """[4, B] of what the frames add up to."""
    groups = _groups(sums, per_clip)
    mean, spread, scale, total = groups["log_mean"], groups["log_square"], groups["scale"], groups["weight"]
    per_group = torch.stack((
        spread / total + (1 - invariance) * mean.square(),
        ((groups["dd"] - scale * groups["pd"]) / total).clamp_min(0),
    ))  # fmt: skip
    silog, fitted = torch.where(groups["real"], per_group, 0).sum(-1) / groups["count"]
    absolute = sums[..., 1].sum(1) / _positive(sums[..., 0].sum(1))
    gaps = (sums[..., 9 : 9 + SCALES].sum(1) / sums[..., 9 + SCALES :].sum(1).clamp_min(1))[:, :scales].sum(-1)
    found = (absolute, silog, fitted, gaps)
    return torch.stack([f if wanted >> bit & 1 else torch.zeros_like(f) for bit, f in enumerate(found)])


def _positive(total: Tensor) -> Tensor:
    return torch.where(total > 0, total, 1)


def _groups(sums: Tensor, per_clip: bool) -> dict[str, Tensor]:
    """Weight, means and moments of each group [B, groups], frames merged where a group is a clip."""
    if per_clip:
        sums = _merged(sums).unsqueeze(1)
    weight, _, log_mean, log_square, mean_p, mean_d, pp, pd, dd = sums[..., :9].unbind(-1)
    real = weight > 0
    flat = pp <= FLAT * weight * mean_p.square()
    scale = torch.where(flat, 0, pd / torch.where(flat, 1, pp))
    return {
        "weight": _positive(weight), "real": real, "count": real.sum(-1).clamp_min(1), "log_mean": log_mean,
        "log_square": log_square, "scale": scale, "shift": mean_d - scale * mean_p, "pd": pd, "dd": dd,
    }  # fmt: skip


def _slopes(grad: Tensor, sums: Tensor, per_clip: bool, invariance: float, wanted: int) -> Tensor:
    """[B, T, 14]: what backward kernels take."""
    groups = _groups(sums, per_clip)
    exact = [g if wanted >> bit & 1 else torch.zeros_like(g) for bit, g in enumerate(grad.to(torch.float64))]
    share = torch.where(groups["real"], 2 / (groups["count"][:, None] * groups["weight"]), 0)
    slopes = sums.new_zeros((*sums.shape[:2], SLOPES))
    slopes[..., 0] = (exact[0] / _positive(sums[..., 0].sum(1)))[:, None]
    slopes[..., 1] = exact[1][:, None] * share
    slopes[..., 2] = -invariance * groups["log_mean"] * exact[1][:, None] * share
    slopes[..., 3] = exact[2][:, None] * share * groups["scale"]
    slopes[..., 4] = groups["scale"]
    slopes[..., 5] = groups["shift"]
    slopes[..., 6:] = (exact[3][:, None] / sums[..., 9 + SCALES :].sum(1).clamp_min(1))[:, None]
    return slopes


depth_losses_op = torch.library.custom_op("phys4d::depth_losses", forward, mutates_args=())


@depth_losses_op.register_fake
def _(predicted, target, valid, weight, per_clip, invariance, scales, wanted):  # type: ignore[no-untyped-def]
    sums = predicted.new_empty((*predicted.shape[:2], SUMS), dtype=torch.float64)
    return predicted.new_empty((4, len(predicted))), sums


def backward(
    grad: Tensor, sums: Tensor, predicted: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None,
    per_clip: bool, invariance: float, scales: int, wanted: int,
) -> Tensor:  # fmt: skip
    """d_predicted [B, T, H, W], contiguous, for the gradients [4, B] of the losses and what `forward` kept."""
    inputs, numbers, grid, options = launch_arguments(predicted, target, valid, weight, scales, wanted)
    slopes, d_predicted = _slopes(grad, sums, per_clip, invariance, wanted), predicted.new_empty(predicted.shape)
    if d_predicted.numel():
        launch(depth_kernels.backward_kernel, grid, *inputs, slopes, d_predicted, *numbers, **options)
    return d_predicted


depth_losses_backward_op = torch.library.custom_op("phys4d::depth_losses_backward", backward, mutates_args=())


@depth_losses_backward_op.register_fake
def _(grad, sums, predicted, *rest):  # type: ignore[no-untyped-def]
    return predicted.new_empty(predicted.shape)


differentiable_once(depth_losses_backward_op)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *inputs[:4])
    ctx.rest = inputs[4:]


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    sums, *tensors = ctx.saved_tensors
    return depth_losses_backward_op(grad, sums, *tensors, *ctx.rest), *[None] * 7


depth_losses_op.register_autograd(_backward, setup_context=_setup)
autocast_to_float32(depth_losses_op)


@cpu_kernel(depth_losses_op)
def _(predicted, target, valid, weight, per_clip, invariance, scales, wanted):  # type: ignore[no-untyped-def]
    if native.status()[0]:
        sums = torch.ops.phys4d.native_depth_losses(predicted, target, valid, weight, scales, wanted)
        return _losses(sums, per_clip, invariance, scales, wanted).to(predicted.dtype), sums
    found = depth_reference(predicted, target, valid, weight, per_clip, invariance, scales, wanted)
    return found, found.new_zeros((*predicted.shape[:2], SUMS), dtype=torch.float64)


@cpu_kernel(depth_losses_backward_op)
def _(grad, sums, predicted, target, valid, weight, per_clip, invariance, scales, wanted):  # type: ignore[no-untyped-def]
    if native.status()[0]:
        slopes = _slopes(grad, sums, per_clip, invariance, wanted)
        pair = (predicted, target, valid, weight)
        return torch.ops.phys4d.native_depth_losses_backward(slopes, *pair, scales, wanted)

    def values(predicted: Tensor) -> Tensor:
        return depth_reference(predicted, target, valid, weight, per_clip, invariance, scales, wanted)

    # Not by autograd, which is off inside an operator.
    found: Any = torch.func.vjp(values, predicted)
    return found[1](grad)[0].contiguous()
