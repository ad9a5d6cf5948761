"""Triton kernels of warp consistency: each program works on BLOCK pixels of one pair of frames.

Forward leaves four numbers per program (sum, weights, pixels, the largest contribution to a neighbour), which the host
adds up in a fixed order. Backward adds contributions to the frame sampled as int64 multiples of a power of two, so
that the order in which programs come does not matter; `finish` turns them into gradients.
"""

import triton
import triton.language as tl

CHARBONNIER, RELATIVE, SQUARED = 1, 2, 3
_CHARBONNIER = tl.constexpr(CHARBONNIER)
_RELATIVE = tl.constexpr(RELATIVE)
_SQUARED = tl.constexpr(SQUARED)


@triton.jit
def _corner(Sampled, place, inside):
    depth = tl.load(Sampled + place, mask=inside, other=0.0)
    surface = depth > 0
    return tl.where(surface, 1 / tl.where(surface, depth, 1.0), 0.0)


@triton.jit
def _land(
    Depth, Truth, Motion, Visible, Weight, clip, pair, pixel, height, width,
    depth_clip, depth_frame, truth_clip, truth_frame, motion_clip, motion_channel, motion_frame,
    visible_clip, visible_frame, weight_clip, weight_frame,
    BACK: tl.constexpr, HAS_VISIBLE: tl.constexpr, HAS_WEIGHT: tl.constexpr, CLAMP: tl.constexpr,
    NEAREST: tl.constexpr, TEST: tl.constexpr,
):  # fmt: skip
    """What pixels read where they land: all that the loss and its gradient need, with `used` and weight 0 elsewhere."""
    real = pixel < height * width
    row, column = pixel // width, pixel % width
    motion = Motion + clip * motion_clip + pair * motion_frame + pixel
    du = tl.load(motion, mask=real, other=0.0)
    dv = tl.load(motion + motion_channel, mask=real, other=0.0)
    dz = tl.load(motion + 2 * motion_channel, mask=real, other=0.0)
    sampled_frame = Depth + clip * depth_clip + (pair + 1) * depth_frame
    if BACK:
        du, dv, dz = -du, -dv, -dz
        sampled_frame -= depth_frame
        base = tl.load(Truth + clip * truth_clip + (pair + 1) * truth_frame + pixel, mask=real, other=0.0)
    else:
        base = tl.load(Depth + clip * depth_clip + pair * depth_frame + pixel, mask=real, other=0.0)
    used = real
    if HAS_VISIBLE:
        used &= tl.load(Visible + clip * visible_clip + pair * visible_frame + pixel, mask=real, other=0) != 0
    weight = tl.full(pixel.shape, 1.0, du.dtype)
    if HAS_WEIGHT:
        weight = tl.load(Weight + clip * weight_clip + pair * weight_frame + pixel, mask=real, other=0.0)
    u, v = column.to(du.dtype) + du, row.to(du.dtype) + dv
    last_u, last_v = tl.cast(width - 1, du.dtype), tl.cast(height - 1, du.dtype)
    free_u, free_v = real, real
    if CLAMP:
        free_u, free_v = (u >= 0) & (u <= last_u), (v >= 0) & (v <= last_v)
        u = tl.where(u < 0, 0.0, tl.where(u > last_u, last_u, u))
        v = tl.where(v < 0, 0.0, tl.where(v > last_v, last_v, v))
    used &= (u >= 0) & (u <= last_u) & (v >= 0) & (v <= last_v)
    u, v = tl.where(used, u, 0.0), tl.where(used, v, 0.0)
    # Landing exactly on the last pixel centre belongs to the cell before it, so that four neighbours exist.
    left = tl.minimum(u.to(tl.int32), tl.maximum(width - 2, 0))
    top = tl.minimum(v.to(tl.int32), tl.maximum(height - 2, 0))
    x, y = u - left.to(du.dtype), v - top.to(du.dtype)
    first = top.to(tl.int64) * width + left
    right = tl.where(width > 1, 1, 0)
    below = tl.where(height > 1, width, 0)
    p, q = _corner(sampled_frame, first, used), _corner(sampled_frame, first + right, used)
    r, s = _corner(sampled_frame, first + below, used), _corner(sampled_frame, first + below + right, used)
    a, b, c, d = (1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y
    used &= ((p > 0) | (a == 0)) & ((q > 0) | (b == 0)) & ((r > 0) | (c == 0)) & ((s > 0) | (d == 0))
    mixed = p * a + q * b + r * c + s * d
    sampled = tl.where(used, 1 / tl.where(used, mixed, 1.0), 0.0)
    moved = base + dz
    if TEST:
        used &= (sampled < moved * tl.full(moved.shape, NEAREST, moved.dtype)) == 0
    residual = tl.where(used, sampled - moved, 0.0)
    moved, weight = tl.where(used, moved, 1.0), tl.where(used, weight, 0.0)
    # Corners as shares of the sample: near 1 whatever the unit of depth.
    p, q = tl.where(used, p * sampled, 0.0), tl.where(used, q * sampled, 0.0)
    r, s = tl.where(used, r * sampled, 0.0), tl.where(used, s * sampled, 0.0)
    return used, weight, sampled, moved, residual, x, y, p, q, r, s, first, right, below, free_u, free_v


@triton.jit
def _size(moved):
    """What a relative error is relative to. Constants are made in the dtype of the numbers, else they are float32."""
    return tl.maximum(tl.abs(moved), tl.full(moved.shape, 1e-3, moved.dtype))


@triton.jit
def _root(residual):
    return tl.sqrt(residual * residual + tl.full(residual.shape, 1e-6, residual.dtype))


@triton.jit
def _slope(residual, moved, LOSS: tl.constexpr):
    """Of the error by the residual; 0 where an absolute value has none."""
    sign = tl.where(residual > 0, 1.0, tl.where(residual < 0, -1.0, residual))
    if LOSS == _CHARBONNIER:
        sign = residual / _root(residual)
    elif LOSS == _RELATIVE:
        sign = sign / _size(moved)
    elif LOSS == _SQUARED:
        sign = 2 * residual
    return sign


@triton.jit
def forward_kernel(
    Depth, Truth, Motion, Visible, Weight, Partial, pairs, height, width, blocks,
    depth_clip, depth_frame, truth_clip, truth_frame, motion_clip, motion_channel, motion_frame,
    visible_clip, visible_frame, weight_clip, weight_frame,
    LOSS: tl.constexpr, BACK: tl.constexpr, HAS_VISIBLE: tl.constexpr, HAS_WEIGHT: tl.constexpr, CLAMP: tl.constexpr,
    NEAREST: tl.constexpr, TEST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes Partial float64 [programs, 4]."""
    program = tl.program_id(0).to(tl.int64)
    image = program // blocks
    pixel = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    used, weight, _, moved, residual, x, y, p, q, r, s, _, _, _, _, _ = _land(
        Depth, Truth, Motion, Visible, Weight, image // pairs, image % pairs, pixel, height, width,
        depth_clip, depth_frame, truth_clip, truth_frame, motion_clip, motion_channel, motion_frame,
        visible_clip, visible_frame, weight_clip, weight_frame,
        BACK, HAS_VISIBLE, HAS_WEIGHT, CLAMP, NEAREST, TEST,
    )  # fmt: skip
    error = tl.abs(residual)
    if LOSS == _CHARBONNIER:
        error = _root(residual) - tl.full(residual.shape, 1e-3, residual.dtype)
    elif LOSS == _RELATIVE:
        error = error / _size(moved)
    elif LOSS == _SQUARED:
        error = residual * residual
    steepest = tl.maximum(
        tl.maximum(p * p * ((1 - x) * (1 - y)), q * q * (x * (1 - y))),
        tl.maximum(r * r * ((1 - x) * y), s * s * (x * y)),
    )  # fmt: skip
    most = tl.abs(_slope(residual, moved, LOSS)) * weight * steepest
    most = tl.where(most == most, most, float("inf")).to(tl.float64)
    place = Partial + program * 4
    tl.store(place, tl.sum(tl.where(used, error, 0.0).to(tl.float64) * weight.to(tl.float64), axis=0))
    tl.store(place + 1, tl.sum(weight.to(tl.float64), axis=0))
    tl.store(place + 2, tl.sum(used.to(tl.int32), axis=0).to(tl.float64))
    tl.store(place + 3, tl.max(most, axis=0))


@triton.jit
def _add(Sums, place, value, step, used):
    tl.atomic_add(Sums + place, tl.floor(value.to(tl.float64) * step + 0.5).to(tl.int64), mask=used, sem="relaxed")


@triton.jit
def backward_kernel(
    Depth, Truth, Motion, Visible, Weight, Scale, Step, Sums, DMotion, pairs, height, width, blocks,
    depth_clip, depth_frame, truth_clip, truth_frame, motion_clip, motion_channel, motion_frame,
    visible_clip, visible_frame, weight_clip, weight_frame,
    LOSS: tl.constexpr, BACK: tl.constexpr, HAS_VISIBLE: tl.constexpr, HAS_WEIGHT: tl.constexpr, CLAMP: tl.constexpr,
    NEAREST: tl.constexpr, TEST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes DMotion [clips, 3, pairs, H, W] and adds to Sums int64 [clips, pairs + 1, H, W], in units of 1 / Step."""
    program = tl.program_id(0).to(tl.int64)
    image = program // blocks
    clip, pair = image // pairs, image % pairs
    pixel = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    used, weight, sampled, moved, residual, x, y, p, q, r, s, first, right, below, free_u, free_v = _land(
        Depth, Truth, Motion, Visible, Weight, clip, pair, pixel, height, width,
        depth_clip, depth_frame, truth_clip, truth_frame, motion_clip, motion_channel, motion_frame,
        visible_clip, visible_frame, weight_clip, weight_frame,
        BACK, HAS_VISIBLE, HAS_WEIGHT, CLAMP, NEAREST, TEST,
    )  # fmt: skip
    plane = tl.cast(height, tl.int64) * width
    slope = _slope(residual, moved, LOSS) * weight
    scale = tl.load(Scale + clip).to(slope.dtype)
    sign = -1.0 if BACK else 1.0
    outward = -sign * scale * slope
    d_u = outward * sampled * ((1 - y) * (q - p) + y * (s - r))
    d_v = outward * sampled * ((1 - x) * (r - p) + x * (s - q))
    place = DMotion + (3 * clip * pairs + pair) * plane + pixel
    real = pixel < plane
    tl.store(place, tl.where(used & free_u, d_u, 0.0), mask=real)
    tl.store(place + pairs * plane, tl.where(used & free_v, d_v, 0.0), mask=real)
    tl.store(place + 2 * pairs * plane, tl.where(used, outward, 0.0), mask=real)
    step = tl.load(Step + clip)
    frame = pair if BACK else pair + 1
    target = (clip * (pairs + 1) + frame) * plane + first
    _add(Sums, target, slope * (p * p * ((1 - x) * (1 - y))), step, used)
    _add(Sums, target + right, slope * (q * q * (x * (1 - y))), step, used)
    _add(Sums, target + below, slope * (r * r * ((1 - x) * y)), step, used)
    _add(Sums, target + below + right, slope * (s * s * (x * y)), step, used)


@triton.jit
def finish_kernel(
    Sums, DMotion, Unit, DDepth, pairs, plane, blocks, BACK: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """DDepth [clips, pairs + 1, H, W] from Sums in units of Unit [clips], plus what moved depth gets: that of dz."""
    program = tl.program_id(0).to(tl.int64)
    image = program // blocks
    clip, frame = image // (pairs + 1), image % (pairs + 1)
    pixel = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    real = pixel < plane
    place = image * plane + pixel
    total = tl.load(Sums + place, mask=real, other=0).to(tl.float64) * tl.load(Unit + clip)
    if not BACK:
        moved = real & (frame < pairs)
        z_place = ((3 * clip + 2) * pairs + frame) * plane + pixel
        total += tl.load(DMotion + z_place, mask=moved, other=0.0).to(tl.float64)
    tl.store(DDepth + place, total.to(DDepth.dtype.element_ty), mask=real)
