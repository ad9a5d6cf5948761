"""The definition of the forward warp with a depth buffer in plain torch, against which the kernels are tested."""

import torch
from torch import Tensor


def splat_reference(
    values: Tensor, flow: Tensor, depth: Tensor, valid: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """values [B, C, T, H, W], depth [B, T, H, W] and index int64 [B, T, H, W]; arguments as of the operator.

    Two reductions without dependence on order: the least depth per pixel, then the lowest index with that depth.
    """
    height, width = depth.shape[-2:]
    plane = height * width
    rows = torch.arange(height, dtype=depth.dtype, device=depth.device)[:, None] + 0.5
    columns = torch.arange(width, dtype=depth.dtype, device=depth.device)[None, :] + 0.5
    u, v = (columns + flow[:, 0]).detach(), (rows + flow[:, 1]).detach()
    lands = (depth > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    if valid is not None:
        lands = lands & valid
    u, v = torch.where(lands, u, 0), torch.where(lands, v, 0)
    target = torch.where(lands, v.long() * width + u.long(), plane).flatten(-2)  # plane: the pixel of no target
    z = torch.where(lands, depth, torch.inf).detach().flatten(-2)
    shape = (*depth.shape[:-2], plane + 1)
    nearest = torch.full(shape, torch.inf, dtype=z.dtype, device=z.device).scatter_reduce(-1, target, z, "amin")
    number = torch.arange(plane, device=z.device).expand_as(target)
    number = torch.where(z == nearest.gather(-1, target), number, plane)
    winner = torch.full(shape, plane, device=z.device).scatter_reduce(-1, target, number, "amin")[..., :-1]
    filled = winner < plane
    source = torch.where(filled, winner, 0)
    found = torch.where(filled, depth.flatten(-2).gather(-1, source), 0).view_as(depth)
    everywhere = source[:, None].expand(*values.shape[:3], plane)
    taken = torch.where(filled[:, None], values.flatten(-2).gather(-1, everywhere), 0).view_as(values)
    return taken, found, torch.where(filled, winner, -1).view_as(depth)
