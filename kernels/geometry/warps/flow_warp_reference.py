"""The definition of the backward warp in plain torch, against which the kernels are tested.

    warped(x) = sum over the four pixels around x + flow(x) of weight * frames(pixel)

With labels only pixels with a label near the wanted one are used, and their weights are divided by their sum.
"""

import torch
from torch import Tensor


def flow_warp_reference(
    frames: Tensor, flow: Tensor, labels: Tensor | None, wanted: Tensor | None, tolerance: float, clamp: bool
) -> tuple[Tensor, Tensor]:
    """warped [B, C, T, H, W] and inside bool [B, T, H, W]; arguments as of the operator."""
    height, width = frames.shape[-2:]
    rows = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None]
    columns = torch.arange(width, dtype=flow.dtype, device=flow.device)[None, :]
    u, v = columns + flow[:, 0], rows + flow[:, 1]
    inside = (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
    if clamp:
        u, v = _clamped(u, width - 1), _clamped(v, height - 1)
    used = (u > -1) & (u < width) & (v > -1) & (v < height)
    left, before, after = _taps(u, used, width)
    top, above, under = _taps(v, used, height)
    right, below = int(width > 1), width if height > 1 else 0
    places = [(top * width + left + offset).flatten(-2) for offset in (0, right, below, below + right)]
    weights = [before * above, after * above, before * under, after * under]
    if labels is not None and wanted is not None:
        near = [(labels.flatten(-2).gather(-1, place).view_as(wanted) - wanted).abs() for place in places]
        same = [gap <= tolerance * wanted for gap in near]
        weights = [torch.where(fits, weight, 0) for fits, weight in zip(same, weights, strict=True)]
        total = sum(weights[1:], weights[0])
        used = inside = used & (total > 0)
        weights = [weight / torch.where(used, total, 1) for weight in weights]
    flat = frames.flatten(-2)
    warped = torch.zeros_like(frames)
    for number, (place, weight) in enumerate(zip(places, weights, strict=True)):
        tap = flat.gather(-1, place[:, None].expand_as(flat)).view_as(frames)
        if labels is not None:
            tap = torch.where(same[number][:, None], tap, 0)  # unused pixels may have any value
        warped = warped + tap * weight[:, None]
    return torch.where(used[:, None], warped, 0), inside


def _taps(position: Tensor, used: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Index of the first of two neighbours along an axis, and the weights of both, 0 for those outside the image."""
    position = torch.where(used, position, 0)
    # A point on the last pixel centre belongs to the cell before it, so that both neighbours exist.
    first = position.detach().floor().clamp(0, max(size - 2, 0))
    x, out_before, out_after = position - first, position < 0, position > size - 1
    near = torch.where(out_before, 1 + position, torch.where(out_after, 0, 1 - x))
    far = torch.where(out_before, 0, torch.where(out_after, size - position, x))
    return first.long(), near, far


def _clamped(position: Tensor, last: int) -> Tensor:
    # By selection: torch's clamp has a gradient exactly at the border, and the kernels have none.
    within = torch.where(position < 0, torch.zeros_like(position), position)
    return torch.where(position > last, torch.full_like(position, last), within)
