"""Triton kernels of the forward warp with a depth buffer: each program works on BLOCK pixels of one frame.

`land` finds the visible source of each pixel by 64-bit atomic minima, whose result does not depend on their order;
`take` gathers the values of the sources; `return` writes their gradients.
"""

import triton
import triton.language as tl

LEAST = ("both", "depth", "index")  # the minimum that a launch of `land` computes
_DEPTH = tl.constexpr(LEAST.index("depth"))
_INDEX = tl.constexpr(LEAST.index("index"))
_EMPTY = tl.constexpr(2**63 - 1)


@triton.jit(do_not_specialize=["times", "height", "width", "blocks"])
def land_kernel(
    Flow, Depth, Valid, Nearest, Keys, times, height, width, blocks, flow_clip, flow_channel, flow_time,
    depth_clip, depth_time, valid_clip, valid_time,
    LEAST: tl.constexpr, HAS_VALID: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Atomic minima, int64 [clips, times, H, W]: in Keys of (depth bits << 32 | index); or in Nearest of depth bits
    and, in a second launch, in Keys of the indices of the pixels with that depth."""
    program = tl.program_id(0).to(tl.int64)
    image = program // blocks
    clip, time = image // times, image % times
    pixel = (program % blocks).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    real = pixel < height * width
    flow = Flow + clip * flow_clip + time * flow_time + pixel
    depth = tl.load(Depth + clip * depth_clip + time * depth_time + pixel, mask=real, other=0.0)
    u = (pixel % width).to(depth.dtype) + 0.5 + tl.load(flow, mask=real, other=0.0)
    v = (pixel // width).to(depth.dtype) + 0.5 + tl.load(flow + flow_channel, mask=real, other=0.0)
    lands = real & (depth > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    if HAS_VALID:
        lands &= tl.load(Valid + clip * valid_clip + time * valid_time + pixel, mask=real, other=0) != 0
    u, v = tl.where(lands, u, 0.0), tl.where(lands, v, 0.0)
    target = (image * height + v.to(tl.int32)) * width + u.to(tl.int32)
    if LEAST == _DEPTH:
        tl.atomic_min(Nearest + target, depth.to(tl.int64, bitcast=True), mask=lands, sem="relaxed")
    elif LEAST == _INDEX:
        lands &= tl.load(Nearest + target, mask=lands, other=0) == depth.to(tl.int64, bitcast=True)
        tl.atomic_min(Keys + target, pixel.to(tl.int64), mask=lands, sem="relaxed")
    else:
        bits = depth.to(tl.int32, bitcast=True).to(tl.int64)
        tl.atomic_min(Keys + target, (bits << 32) | pixel.to(tl.int64), mask=lands, sem="relaxed")


@triton.jit(do_not_specialize=["channels", "times", "height", "width", "blocks"])
def take_kernel(
    Keys, Values, Depth, Taken, Found, Index, channels, times, height, width, blocks,
    values_clip, values_channel, values_time, depth_clip, depth_time, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes Taken [clips, channels, times, H, W], Found and Index int64 [clips, times, H, W]."""
    program = tl.program_id(0).to(tl.int64)
    image = program // blocks
    clip, time = image // times, image % times
    pixel = (program % blocks).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    plane = height.to(tl.int64) * width
    real = pixel < plane
    key = tl.load(Keys + image * plane + pixel, mask=real, other=_EMPTY)
    filled = key != _EMPTY
    source = tl.where(filled, key & 0xFFFFFFFF, 0)
    tl.store(Index + image * plane + pixel, tl.where(filled, source, -1), mask=real)
    depth = tl.load(Depth + clip * depth_clip + time * depth_time + source, mask=filled, other=0.0)
    tl.store(Found + image * plane + pixel, depth, mask=real)
    carried = Values + clip * values_clip + time * values_time + source
    taken = Taken + (clip * channels * times + time) * plane + pixel
    for _ in range(channels):
        tl.store(taken, tl.load(carried, mask=filled, other=0.0), mask=real)
        carried += values_channel
        taken += times * plane


@triton.jit(do_not_specialize=["channels", "times", "plane", "blocks"])
def return_kernel(
    Index, Grad, DepthGrad, DValues, DDepth, channels, times, plane, blocks,
    grad_clip, grad_channel, grad_time, depth_clip, depth_time, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes DValues [clips, channels, times, plane] and DDepth [clips, times, plane] of visible sources only."""
    program = tl.program_id(0).to(tl.int64)
    image = program // blocks
    clip, time = image // times, image % times
    pixel = (program % blocks).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    source = tl.load(Index + image * plane + pixel, mask=pixel < plane, other=-1)
    seen = source >= 0
    depth = tl.load(DepthGrad + clip * depth_clip + time * depth_time + pixel, mask=seen, other=0.0)
    tl.store(DDepth + image * plane + source, depth, mask=seen)
    grad = Grad + clip * grad_clip + time * grad_time + pixel
    target = DValues + (clip * channels * times + time) * plane + source
    for _ in range(channels):
        tl.store(target, tl.load(grad, mask=seen, other=0.0), mask=seen)
        grad += grad_channel
        target += times * plane.to(tl.int64)
