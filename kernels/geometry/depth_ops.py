"""The depth losses as a torch operator: all of them from one pass over the pair, all gradients from another.

Native code gives sums per frame; what the losses and their slopes make of them is a few numbers per frame, done here.
"""

from typing import Any

import torch
from torch import Tensor

from phys4d.kernels import native
from phys4d.kernels.geometry.depth_reference import FLAT, depth_reference

SCALES = 8  # at most, in native code
_SUMS = 9 + 2 * SCALES


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
    sums = predicted.new_zeros((*predicted.shape[:2], _SUMS), dtype=torch.float64)
    return depth_reference(predicted, target, valid, weight, per_clip, invariance, scales, wanted), sums


depth_losses_op = torch.library.custom_op("phys4d::depth_losses", forward, mutates_args=())


@depth_losses_op.register_fake
def _(predicted, target, valid, weight, per_clip, invariance, scales, wanted):  # type: ignore[no-untyped-def]
    sums = predicted.new_empty((*predicted.shape[:2], _SUMS), dtype=torch.float64)
    return predicted.new_empty((4, len(predicted))), sums


@depth_losses_op.register_kernel("cpu")
def _(predicted, target, valid, weight, per_clip, invariance, scales, wanted):  # type: ignore[no-untyped-def]
    if not native.status()[0]:
        return forward(predicted, target, valid, weight, per_clip, invariance, scales, wanted)
    sums = torch.ops.phys4d.native_depth_losses(predicted, target, valid, weight, scales, wanted)
    groups = _groups(sums, per_clip)
    mean, spread, scale, total = groups["log_mean"], groups["log_square"], groups["scale"], groups["weight"]
    per_group = torch.stack((
        spread / total + (1 - invariance) * mean.square(),
        ((groups["dd"] - scale * groups["pd"]) / total).clamp_min(0),
    ))  # fmt: skip
    silog, fitted = torch.where(groups["real"], per_group, 0).sum(-1) / groups["count"]
    absolute = sums[..., 1].sum(1) / _positive(sums[..., 0].sum(1))
    gaps = (sums[..., 9 : 9 + SCALES].sum(1) / sums[..., 9 + SCALES :].sum(1).clamp_min(1))[:, :scales].sum(-1)
    found = torch.stack((absolute, silog, fitted, gaps))
    return torch.where(_asked(wanted), found, 0).to(predicted.dtype), sums


def _asked(wanted: int) -> Tensor:
    return torch.tensor([[wanted >> bit & 1 == 1] for bit in range(4)])


def _positive(total: Tensor) -> Tensor:
    return torch.where(total > 0, total, 1)


def _groups(sums: Tensor, per_clip: bool) -> dict[str, Tensor]:
    """Weight, means and moments of each group [B, groups], frames merged where a group is a clip."""
    weight, _, log_mean, log_square, mean_p, mean_d, pp, pd, dd = sums[..., :9].unbind(-1)
    if per_clip:
        total = weight.sum(1, keepdim=True)
        share = weight / _positive(total)
        off = []
        for mean in (log_mean, mean_p, mean_d):
            off.append(mean - (share * mean).sum(1, keepdim=True))
        log_mean, mean_p, mean_d = ((share * mean).sum(1, keepdim=True) for mean in (log_mean, mean_p, mean_d))
        log_square = (log_square + weight * off[0].square()).sum(1, keepdim=True)
        pp = (pp + weight * off[1].square()).sum(1, keepdim=True)
        pd = (pd + weight * off[1] * off[2]).sum(1, keepdim=True)
        dd = (dd + weight * off[2].square()).sum(1, keepdim=True)
        weight = total
    real = weight > 0
    flat = pp <= FLAT * weight * mean_p.square()
    scale = torch.where(flat, 0, pd / torch.where(flat, 1, pp))
    return {
        "weight": _positive(weight), "real": real, "count": real.sum(-1).clamp_min(1), "log_mean": log_mean,
        "log_square": log_square, "scale": scale, "shift": mean_d - scale * mean_p, "pd": pd, "dd": dd,
    }  # fmt: skip


def backward(
    grad: Tensor, sums: Tensor, predicted: Tensor, target: Tensor, valid: Tensor, weight: Tensor | None,
    per_clip: bool, invariance: float, scales: int, wanted: int,
) -> Tensor:  # fmt: skip
    """d_predicted [B, T, H, W], contiguous, for the gradients [4, B] of the losses and what `forward` kept."""

    def values(predicted: Tensor) -> Tensor:
        return depth_reference(predicted, target, valid, weight, per_clip, invariance, scales, wanted)

    return torch.func.vjp(values, predicted)[1](grad)[0].contiguous()  # autograd is off inside an operator


depth_losses_backward_op = torch.library.custom_op("phys4d::depth_losses_backward", backward, mutates_args=())


@depth_losses_backward_op.register_fake
def _(grad, sums, predicted, *rest):  # type: ignore[no-untyped-def]
    return predicted.new_empty(predicted.shape)


@depth_losses_backward_op.register_kernel("cpu")
def _(grad, sums, predicted, target, valid, weight, per_clip, invariance, scales, wanted):  # type: ignore[no-untyped-def]
    if not native.status()[0]:
        return backward(grad, sums, predicted, target, valid, weight, per_clip, invariance, scales, wanted)
    groups, exact = _groups(sums, per_clip), torch.where(_asked(wanted), grad.to(torch.float64), 0)
    share = torch.where(groups["real"], 2 / (groups["count"][:, None] * groups["weight"]), 0)
    slopes = sums.new_zeros((*sums.shape[:2], 6 + SCALES))
    slopes[..., 0] = (exact[0] / _positive(sums[..., 0].sum(1)))[:, None]
    slopes[..., 1] = exact[1, :, None] * share
    slopes[..., 2] = -invariance * groups["log_mean"] * exact[1, :, None] * share
    slopes[..., 3] = exact[2, :, None] * share * groups["scale"]
    slopes[..., 4] = groups["scale"]
    slopes[..., 5] = groups["shift"]
    slopes[..., 6:] = (exact[3, :, None] / sums[..., 9 + SCALES :].sum(1).clamp_min(1))[:, None]
    return torch.ops.phys4d.native_depth_losses_backward(slopes, predicted, target, valid, weight, scales, wanted)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *inputs[:4])
    ctx.rest = inputs[4:]


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    sums, *tensors = ctx.saved_tensors
    return depth_losses_backward_op(grad, sums, *tensors, *ctx.rest), *[None] * 7


depth_losses_op.register_autograd(_backward, setup_context=_setup)
for _device in ("cpu", "cuda"):
    torch.library.register_autocast("phys4d::depth_losses", _device, torch.float32)
