"""Calls that launch every kernel once on meta tensors, so that it compiles on a machine that cannot run it.

Each call has the shapes of a named case, which determine the kernel's options: shapes of models for attention and
norms, and of clips of 49 frames of 480 x 720 pixels for 4D geometry.
"""

from typing import Any

import torch


def attention(case: Any, dtype: torch.dtype) -> None:
    """Forward and backward of an `AttentionCase`."""
    from phys4d.kernels.attention import ops
    from phys4d.kernels.attention.qk_transform import NO_TRANSFORM
    from phys4d.kernels.elementwise import Rope

    q, k, v = (
        torch.empty(case.batch, case.tokens, heads, case.dim, dtype=dtype, device="meta")
        for heads in (case.heads, *(case.kv_heads or case.heads,) * 2)
    )
    mask = None
    if case.mask is not None:
        mask = torch.empty(1, 1, case.tokens, case.tokens, dtype=case.mask, device="meta")
    where = ops.flat_pattern(case.pattern, case.grid, (case.words, "first") if case.words else None)
    transform: Any = NO_TRANSFORM
    if case.lanes is not None:
        tables = Rope.make(case.grid, case.lanes, device="meta").tables
        weight = torch.empty(case.dim, dtype=dtype, device="meta")
        transform = (weight, weight, None, None, *tables, "rms", 1e-6, "interleaved")
    out, lse = ops.forward(q, k, v, *where, None, mask, case.dim**-0.5, False, *transform)
    rest: list[Any] = [*where, None, mask, case.dim**-0.5, *transform, True]
    ops.backward(q, k, v, out, lse, torch.empty_like(out), None, *rest)


def int8_attention(case: Any, dtype: torch.dtype) -> None:
    """Forward of an `AttentionCase` with scores from int8 products."""
    from phys4d.kernels.attention import int8

    q = torch.empty(case.batch, case.tokens, case.heads, case.dim, dtype=dtype, device="meta")
    int8.forward(q, q, q, None, case.dim**-0.5)


def norm_rope(case: Any, dtype: torch.dtype) -> None:
    """Forward and backward of a `NormRopeCase`, without and with the weights' gradients."""
    from phys4d.kernels.elementwise import Rope
    from phys4d.kernels.elementwise.norm_rope_ops import backward, forward

    x = torch.empty((1, case.tokens, case.heads, case.dim), dtype=dtype, device="meta")
    lanes = case.heads * case.dim if case.kind == "rms_across_heads" else case.dim
    weight = torch.empty(lanes, dtype=dtype, device="meta")
    tables = Rope.make(case.grid, case.lanes, layout=case.layout, device="meta").tables
    bias = weight if case.kind == "layer" else None
    rest: list[Any] = [weight, bias, case.kind, 1e-6, *tables, case.layout, list(case.grid), -case.words]
    forward(x, *rest)
    for weight_gradient in (False, True):
        backward(*[x, x, *rest, weight_gradient])


def adaptive_norm(case: Any, dtype: torch.dtype) -> None:
    """Forward and backward of an `AdaptiveNormCase`, without and with the gradients of modulation, weight and bias."""
    from phys4d.kernels.elementwise import TokenRows
    from phys4d.kernels.elementwise.adaptive_norm_ops import backward, forward

    x = torch.empty((1, case.tokens, case.width), dtype=dtype, device="meta")
    affine = torch.empty(case.width, dtype=dtype, device="meta") if case.affine else None
    table = torch.empty((case.rows, 6, case.width), dtype=case.table, device="meta")
    gate, scale, shift = (table[:, k] if case.modulated else None for k in range(3))
    plan: list[Any] = [None] * 5
    if case.mixed:
        rows = TokenRows.of(torch.arange(case.tokens)[None] % case.rows, case.rows)
        plan = [t.to("meta") for t in (rows.index, rows.order, rows.forward, rows.backward, rows.begins)]
    index, order, short, long, begins = plan
    stream, out, stats = forward(
        x, x, gate, affine, affine, scale, shift, index, order, short, long, begins, "layer", 1e-6
    )
    for y in (None, x) if case.modulated else (None,):
        wanted = y is not None or case.affine
        rest = index, order, long, begins, "layer", case.rows, wanted
        backward(stream, y, dtype, gate, affine, scale, stats, out, out, *rest)


def _warp_consistency() -> None:
    """Depth and motion of 49 frames of 480 x 720 pixels with visibility and weights, float32, forward and backward."""
    from phys4d.kernels.geometry.losses import warp_ops

    depth, motion = torch.empty(1, 49, 480, 720, device="meta"), torch.empty(1, 3, 48, 480, 720, device="meta")
    visible = torch.empty(1, 48, 480, 720, dtype=torch.bool, device="meta")
    rest = (depth, motion, visible, depth[:, 1:], None, "l1", -1.0, False)
    _, total, _, peak = warp_ops.forward(*rest)
    warp_ops.backward(total, peak, *rest)


def _one_pixel() -> None:
    """Two frames of one pixel: Triton compiles an argument of value 1 as a constant."""
    from phys4d.kernels.geometry.losses import scene_flow_ops, warp_ops

    depth, motion = torch.empty(1, 2, 1, 1, device="meta"), torch.empty(1, 3, 1, 1, 1, device="meta")
    warp = (depth, motion, None, None, None, "l1", 0.05, False)
    _, total, _, peak = warp_ops.forward(*warp)
    warp_ops.backward(total, peak, *warp)
    flow = (depth, motion, depth, motion, depth[:, 1:].bool(), None, torch.empty(1, 2, 3, 3, device="meta"))
    scene_flow_ops.backward(scene_flow_ops.forward(*flow)[1], *flow)


def _chamfer() -> None:
    """Two clouds of 100,000 points, float32: exhaustive search and gradients."""
    from phys4d.kernels.geometry.clouds import chamfer_kernels

    cloud = torch.empty(1, 100_000, 3, device="meta")
    lengths = torch.empty(1, dtype=torch.int64, device="meta")
    squares, index = chamfer_kernels.search(cloud, cloud, lengths, lengths)
    chamfer_kernels.backward(squares[:, 0], cloud, cloud, lengths, lengths, index, index, False)


def _flow_warp() -> None:
    """Colours of 49 frames of 480 x 720 pixels, float32, forward and backward, without and with labels."""
    from phys4d.kernels.geometry.warps import flow_warp_ops

    frames, flow = torch.empty(1, 3, 49, 480, 720, device="meta"), torch.empty(1, 2, 49, 480, 720, device="meta")
    for labels, wanted in ((None, None), (flow[:, 0], flow[:, 1])):
        flow_warp_ops.forward(frames, flow, labels, wanted, 0.05, False)
        flow_warp_ops.backward(frames, frames, flow, labels, wanted, 0.05, False, False)


def _splat() -> None:
    """Colours of 49 frames of 480 x 720 pixels, forward and backward, with float32 and with float64 depth."""
    from phys4d.kernels.geometry.warps import splat_ops

    for dtype in (torch.float32, torch.float64):
        values = torch.empty(1, 3, 49, 480, 720, dtype=dtype, device="meta")
        valid = torch.empty(1, 49, 480, 720, dtype=torch.bool, device="meta")
        taken, depth, index = splat_ops.forward(values, values[:, :2], values[:, 2], valid)
        splat_ops.backward(taken, depth, index)


def _trees() -> None:
    """Tree search from one cloud to the other, all pixels of a 480 x 720 frame, in 3 and 4 dimensions, float32."""
    from phys4d.kernels.geometry.clouds.neighbours import one_way

    lengths = torch.empty(1, dtype=torch.int64, device="meta")
    for dimensions in (3, 4):
        cloud = torch.empty(1, 345_600, dimensions, device="meta")
        one_way("triton", "tree", cloud, cloud, lengths, lengths)


def _depth_losses(wanted: int) -> None:
    """Depth of 49 frames of 480 x 720 pixels with a mask and weights, float32, forward and backward.

    Two scales of gradient differences: every further scale compiles to a smaller copy of the second.
    """
    from phys4d.kernels.geometry.losses import depth_ops

    depth = torch.empty(1, 49, 480, 720, device="meta")
    rest = (depth, depth, depth.bool(), depth, False, 0.85, 2, wanted)
    value, sums = depth_ops.forward(*rest)
    depth_ops.backward(value, sums, *rest)


def _flow_loss(kind: str) -> None:
    """Flow between 49 frames of 480 x 720 pixels with a mask and weights, float32, forward and backward."""
    from phys4d.kernels.geometry.losses import flow_ops

    pixels = 48 * 480 * 720
    flow, weight = torch.empty(1, 2, pixels, device="meta"), torch.empty(1, pixels, device="meta")
    rest = (flow, flow, weight.bool(), weight, flow if kind == "laplace" else None, kind)
    flow_ops.backward(flow_ops.forward(*rest)[1], *rest)


def _scene_flow() -> None:
    """Depth and motion of 49 frames of 480 x 720 pixels with a mask and weights, float32, forward and backward."""
    from phys4d.kernels.geometry.losses import scene_flow_ops

    depth, motion = torch.empty(1, 49, 480, 720, device="meta"), torch.empty(1, 3, 48, 480, 720, device="meta")
    weight, intrinsics = torch.empty(1, 48, 480, 720, device="meta"), torch.empty(1, 49, 3, 3, device="meta")
    rest = (depth, motion, depth, motion, weight.bool(), weight, intrinsics)
    scene_flow_ops.backward(scene_flow_ops.forward(*rest)[1], *rest)


GEOMETRY = {
    "warp": _warp_consistency, "depth-log-l1": lambda: _depth_losses(1), "depth-scale-shift": lambda: _depth_losses(4),
    "depth-all": lambda: _depth_losses(15), "flow-l1": lambda: _flow_loss("l1"),
    "flow-laplace": lambda: _flow_loss("laplace"), "scene-flow": _scene_flow, "flow-warp": _flow_warp, "splat": _splat,
    "chamfer-100k": _chamfer, "chamfer-trees": _trees, "one-pixel": _one_pixel,
}  # fmt: skip
