"""Triton kernels of the backward warp: each program works on BLOCK pixels of one frame, channel after channel.

Backward adds contributions to the frames as int64 multiples of a power of two, so that the order of programs does not
matter; `finish` converts the sums into gradients. Both run on few frames at a time, so that the integers stay in the
GPU's cache.
"""

import triton
import triton.language as tl


@triton.jit
def _taps(position, used, size):
    """The first of two neighbours along an axis, the weights of both, and the derivatives of the weights."""
    position = tl.where(used, position, 0.0)
    last = (size - 1).to(position.dtype)
    # A point on the last pixel centre belongs to the cell before it, so that both neighbours exist.
    first = tl.minimum(position.to(tl.int32), tl.maximum(size - 2, 0))
    x = position - first.to(position.dtype)
    before, after = position < 0, position > last
    near = tl.where(before, 1 + position, tl.where(after, 0.0, 1 - x))
    far = tl.where(before, 0.0, tl.where(after, size.to(position.dtype) - position, x))
    near_slope = tl.where(before, 1.0, tl.where(after, 0.0, -1.0)).to(position.dtype)
    far_slope = tl.where(before, 0.0, tl.where(after, -1.0, 1.0)).to(position.dtype)
    return first, near, far, near_slope, far_slope


@triton.jit
def _land(
    Flow, Labels, Wanted, clip, time, image, pixel, height, width, flow_clip, flow_channel, flow_time,
    CLAMP: tl.constexpr, LABELLED: tl.constexpr, TOLERANCE: tl.constexpr,
):  # fmt: skip
    """The sampling points of pixels: masks, first neighbour, weights and derivatives per axis, and used neighbours."""
    real = pixel < height * width
    flow = Flow + clip * flow_clip + time * flow_time + pixel
    du = tl.load(flow, mask=real, other=0.0)
    dv = tl.load(flow + flow_channel, mask=real, other=0.0)
    u, v = (pixel % width).to(du.dtype) + du, (pixel // width).to(du.dtype) + dv
    last_u, last_v = (width - 1).to(du.dtype), (height - 1).to(du.dtype)
    free_u, free_v = (u >= 0) & (u <= last_u), (v >= 0) & (v <= last_v)
    inside = free_u & free_v
    if CLAMP:
        u = tl.where(u < 0, 0.0, tl.where(u > last_u, last_u, u))
        v = tl.where(v < 0, 0.0, tl.where(v > last_v, last_v, v))
    else:
        free_u, free_v = real, real
    used = real & (u > -1) & (u < width) & (v > -1) & (v < height)
    left, near_u, far_u, near_u_slope, far_u_slope = _taps(u, used, width)
    top, near_v, far_v, near_v_slope, far_v_slope = _taps(v, used, height)
    first = top.to(tl.int64) * width + left
    right = tl.where(width > 1, 1, 0)
    below = tl.where(height > 1, width, 0)
    p, q, r, s = used, used, used, used
    share = tl.full(u.shape, 1.0, u.dtype)
    if LABELLED:
        place = Labels + image * height * width + first
        wanted = tl.load(Wanted + image * height * width + pixel, mask=real, other=0.0)
        most = wanted * tl.full(wanted.shape, TOLERANCE, wanted.dtype)
        p = used & (tl.abs(tl.load(place, mask=used, other=0.0) - wanted) <= most)
        q = used & (tl.abs(tl.load(place + right, mask=used, other=0.0) - wanted) <= most)
        r = used & (tl.abs(tl.load(place + below, mask=used, other=0.0) - wanted) <= most)
        s = used & (tl.abs(tl.load(place + below + right, mask=used, other=0.0) - wanted) <= most)
        total = tl.where(p, near_u * near_v, 0.0) + tl.where(q, far_u * near_v, 0.0)
        total = total + tl.where(r, near_u * far_v, 0.0) + tl.where(s, far_u * far_v, 0.0)
        inside = used & (total > 0)
        used = inside
        share = tl.where(used, 1 / tl.where(used, total, 1.0), 0.0)
    return (
        real, used, inside, first, right, below, near_u, far_u, near_v, far_v, near_u_slope, far_u_slope,
        near_v_slope, far_v_slope, free_u, free_v, p & used, q & used, r & used, s & used, share,
    )  # fmt: skip


@triton.jit(do_not_specialize=["channels", "times", "height", "width", "blocks"])
def forward_kernel(
    Frames, Flow, Labels, Wanted, Warped, Inside, channels, times, height, width, blocks,
    frames_clip, frames_channel, frames_time, flow_clip, flow_channel, flow_time,
    CLAMP: tl.constexpr, LABELLED: tl.constexpr, TOLERANCE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes Warped [clips, channels, times, H, W] and Inside uint8 [clips, times, H, W]."""
    program = tl.program_id(0).to(tl.int64)
    image = program // blocks
    clip, time = image // times, image % times
    pixel = (program % blocks).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    (
        real, used, inside, first, right, below, near_u, far_u, near_v, far_v, _, _, _, _, _, _, p, q, r, s, share
    ) = _land(
        Flow, Labels, Wanted, clip, time, image, pixel, height, width, flow_clip, flow_channel, flow_time,
        CLAMP, LABELLED, TOLERANCE,
    )  # fmt: skip
    plane = height.to(tl.int64) * width
    tl.store(Inside + image * plane + pixel, inside.to(tl.uint8), mask=real)
    source = Frames + clip * frames_clip + time * frames_time + first
    target = Warped + (clip * channels * times + time) * plane + pixel
    for _ in range(channels):
        value = tl.load(source, mask=p, other=0.0) * (near_u * near_v)
        value += tl.load(source + right, mask=q, other=0.0) * (far_u * near_v)
        value += tl.load(source + below, mask=r, other=0.0) * (near_u * far_v)
        value += tl.load(source + below + right, mask=s, other=0.0) * (far_u * far_v)
        tl.store(target, tl.where(used, value * share, 0.0), mask=real)
        source += frames_channel
        target += times * plane


@triton.jit(do_not_specialize=["channels", "times", "height", "width", "blocks"])
def peak_kernel(
    Flow, Labels, Wanted, Grad, Peak, channels, times, height, width, blocks, flow_clip, flow_channel, flow_time,
    grad_clip, grad_channel, grad_time,
    CLAMP: tl.constexpr, LABELLED: tl.constexpr, TOLERANCE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes Peak float64 [programs]: the largest incoming gradient of used pixels; infinite if one is NaN."""
    program = tl.program_id(0).to(tl.int64)
    image = program // blocks
    clip, time = image // times, image % times
    pixel = (program % blocks).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    _, used, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _ = _land(
        Flow, Labels, Wanted, clip, time, image, pixel, height, width, flow_clip, flow_channel, flow_time,
        CLAMP, LABELLED, TOLERANCE,
    )  # fmt: skip
    incoming = Grad + clip * grad_clip + time * grad_time + pixel
    most = tl.full(pixel.shape, 0.0, Grad.dtype.element_ty)
    for _ in range(channels):
        size = tl.abs(tl.load(incoming, mask=used, other=0.0))
        most = tl.maximum(most, tl.where(size == size, size, float("inf")))
        incoming += grad_channel
    tl.store(Peak + program, tl.max(most, axis=0).to(tl.float64))


@triton.jit
def _add(Sums, value, step, used):
    units = tl.floor(tl.where(used, value, 0.0).to(tl.float64) * step + 0.5)
    tl.atomic_add(Sums, units.to(tl.int64), mask=used, sem="relaxed")


@triton.jit(do_not_specialize=["first_image", "channels", "times", "height", "width", "blocks"])
def backward_kernel(
    Frames, Flow, Labels, Wanted, Grad, Step, Sums, DFlow, first_image, channels, times, height, width, blocks,
    frames_clip, frames_channel, frames_time, flow_clip, flow_channel, flow_time, grad_clip, grad_channel, grad_time,
    CLAMP: tl.constexpr, LABELLED: tl.constexpr, TOLERANCE: tl.constexpr, FIXED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes DFlow [clips, 2, times, H, W] of images (a clip's times) from `first_image` on.

    Adds to Sums int64 [images, channels, H, W], in units of 1 / Step.
    """
    program = tl.program_id(0).to(tl.int64)
    image = first_image + program // blocks
    clip, time = image // times, image % times
    pixel = (program % blocks).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    (
        real, used, _, first, right, below, near_u, far_u, near_v, far_v, near_u_slope, far_u_slope, near_v_slope,
        far_v_slope, free_u, free_v, p, q, r, s, share,
    ) = _land(
        Flow, Labels, Wanted, clip, time, image, pixel, height, width, flow_clip, flow_channel, flow_time,
        CLAMP, LABELLED, TOLERANCE,
    )  # fmt: skip
    plane = height.to(tl.int64) * width
    step = 0.0
    if not FIXED:
        step = tl.load(Step + clip)
    source = Frames + clip * frames_clip + time * frames_time + first
    incoming = Grad + clip * grad_clip + time * grad_time + pixel
    sums = Sums + (image - first_image) * channels * plane + first
    d_u, d_v = share * 0, share * 0
    for _ in range(channels):
        grad = tl.load(incoming, mask=used, other=0.0) * share
        a = tl.load(source, mask=p, other=0.0)
        b = tl.load(source + right, mask=q, other=0.0)
        c = tl.load(source + below, mask=r, other=0.0)
        d = tl.load(source + below + right, mask=s, other=0.0)
        if LABELLED:  # weights are divided by their sum, which depends on them
            value = a * (near_u * near_v) + b * (far_u * near_v) + c * (near_u * far_v) + d * (far_u * far_v)
            value *= share
            a, b = tl.where(p, a - value, 0.0), tl.where(q, b - value, 0.0)
            c, d = tl.where(r, c - value, 0.0), tl.where(s, d - value, 0.0)
        d_u += grad * (near_v * (near_u_slope * a + far_u_slope * b) + far_v * (near_u_slope * c + far_u_slope * d))
        d_v += grad * (near_u * (near_v_slope * a + far_v_slope * c) + far_u * (near_v_slope * b + far_v_slope * d))
        if not FIXED:
            _add(sums, grad * (near_u * near_v), step, p)
            _add(sums + right, grad * (far_u * near_v), step, q)
            _add(sums + below, grad * (near_u * far_v), step, r)
            _add(sums + below + right, grad * (far_u * far_v), step, s)
        source += frames_channel
        incoming += grad_channel
        sums += plane
    place = DFlow + (2 * clip * times + time) * plane + pixel
    tl.store(place, tl.where(used & free_u, d_u, 0.0), mask=real)
    tl.store(place + times * plane, tl.where(used & free_v, d_v, 0.0), mask=real)


@triton.jit(do_not_specialize=["first_image", "channels", "times", "plane", "blocks"])
def finish_kernel(Sums, Unit, DFrames, first_image, channels, times, plane, blocks, BLOCK: tl.constexpr):
    """Writes DFrames [clips, channels, times, plane] of images from Sums in units of Unit [clips]; zeroes Sums."""
    program = tl.program_id(0).to(tl.int64)
    image = first_image + program // (channels * blocks)
    clip, time = image // times, image % times
    channel = program // blocks % channels
    pixel = (program % blocks).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    real = pixel < plane
    place = Sums + (program // blocks) * plane + pixel
    total = tl.load(place, mask=real, other=0).to(tl.float64) * tl.load(Unit + clip)
    tl.store(place, tl.zeros(pixel.shape, tl.int64), mask=real)
    DFrames += ((clip * channels + channel) * times + time) * plane
    tl.store(DFrames + pixel, total.to(DFrames.dtype.element_ty), mask=real)
