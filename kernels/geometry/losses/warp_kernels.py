"""Triton kernels of warp consistency: each program works on BLOCK pixels of one pair of frames.

Forward writes four numbers per program (sum, weights, pixels, a bound on the gradient of one neighbour), which the host
reduces in a fixed order. Backward adds contributions to the sampled frame as int64 multiples of a power of two, so that
the order of programs does not matter; `finish` converts the sums into gradients. Both run on few pairs of frames at a
time, so that the integers stay in the GPU's cache: in memory they would double the bytes that are moved.
"""

import triton
import triton.language as tl

from phys4d.kernels.dispatch import INTERPRETED

CHARBONNIER, RELATIVE, SQUARED = 1, 2, 3
_CHARBONNIER = tl.constexpr(CHARBONNIER)
_RELATIVE = tl.constexpr(RELATIVE)
_SQUARED = tl.constexpr(SQUARED)
_HARDWARE = tl.constexpr(not INTERPRETED)


@triton.jit
def _inverse(x):
    """1 / x by the hardware's reciprocal, with an error of one unit in the last place; exact in the interpreter."""
    if _HARDWARE and x.dtype == tl.float32:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1
        )  # fmt: skip
    else:
        return 1 / x


@triton.jit
def _corner(Sampled, place, inside, share):
    """Inverse depth at a neighbour, 0 without a surface, and whether it has a surface or weight 0."""
    depth = tl.load(Sampled + place, mask=inside, other=0.0)
    surface = depth > 0
    return tl.where(surface, _inverse(depth), 0.0), surface | (share == 0)


@triton.jit
def _land(
    Depth, Truth, Motion, Visible, Weight, clip, pair, pixel, height, width,
    depth_clip, depth_frame, truth_clip, truth_frame, motion_clip, motion_channel, motion_frame,
    visible_clip, visible_frame, weight_clip, weight_frame,
    BACK: tl.constexpr, HAS_VISIBLE: tl.constexpr, HAS_WEIGHT: tl.constexpr, CLAMP: tl.constexpr,
    NEAREST: tl.constexpr, TEST: tl.constexpr,
):  # fmt: skip
    """Samples at the landing points of pixels, and all terms of the loss and its gradient.

    Outside `used` the weight is 0 and the other results may be infinite or NaN.
    """
    real = pixel < height * width
    row = pixel // width
    column = pixel - row * width
    motion = Motion + clip * motion_clip + pair * motion_frame + pixel
    du = tl.load(motion, mask=real, other=0.0)
    dv = tl.load(motion + motion_channel, mask=real, other=0.0)
    dz = tl.load(motion + 2 * tl.cast(motion_channel, tl.int64), mask=real, other=0.0)
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
    # A point on the last pixel centre belongs to the cell before it, so that four neighbours exist.
    left = tl.minimum(u.to(tl.int32), tl.maximum(width - 2, 0))
    top = tl.minimum(v.to(tl.int32), tl.maximum(height - 2, 0))
    x, y = u - left.to(du.dtype), v - top.to(du.dtype)
    first = top * width + left
    right = tl.where(width > 1, 1, 0)
    below = tl.where(height > 1, width, 0)
    a, b, c, d = (1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y
    p, has_p = _corner(sampled_frame, first, used, a)
    q, has_q = _corner(sampled_frame, first + right, used, b)
    r, has_r = _corner(sampled_frame, first + below, used, c)
    s, has_s = _corner(sampled_frame, first + below + right, used, d)
    used &= has_p & has_q & has_r & has_s
    sampled = _inverse(p * a + q * b + r * c + s * d)
    moved = base + dz
    if TEST:
        used &= (sampled < moved * tl.full(moved.shape, NEAREST, moved.dtype)) == 0
    residual = sampled - moved
    weight = tl.where(used, weight, 0.0)
    # Corners relative to the sample: near 1 for any unit of depth.
    p, q, r, s = p * sampled, q * sampled, r * sampled, s * sampled
    return used, weight, sampled, moved, residual, x, y, p, q, r, s, first, right, below, free_u, free_v


@triton.jit
def _size(moved):
    """The divisor of a relative error. Constants have the dtype of `moved`: a plain literal would be float32."""
    return tl.maximum(tl.abs(moved), tl.full(moved.shape, 1e-3, moved.dtype))


@triton.jit
def _root(residual):
    return tl.sqrt(residual * residual + tl.full(residual.shape, 1e-6, residual.dtype))


@triton.jit
def _slope(residual, moved, LOSS: tl.constexpr):
    """Derivative of the error by the residual; 0 where an absolute value has none."""
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
    Depth, Truth, Motion, Visible, Weight, Partial, height, width,
    depth_clip, depth_frame, truth_clip, truth_frame, motion_clip, motion_channel, motion_frame,
    visible_clip, visible_frame, weight_clip, weight_frame,
    LOSS: tl.constexpr, BACK: tl.constexpr, HAS_VISIBLE: tl.constexpr, HAS_WEIGHT: tl.constexpr, CLAMP: tl.constexpr,
    NEAREST: tl.constexpr, TEST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes Partial float64 [clips, pairs, blocks, 4]; programs are blocks, pairs, clips."""
    clip, pair = tl.program_id(2).to(tl.int64), tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # an image has fewer than 2^31 pixels
    used, weight, _, moved, residual, _, _, p, q, r, s, _, _, _, _, _ = _land(
        Depth, Truth, Motion, Visible, Weight, clip, pair, pixel, height, width,
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
    # A corner of weight a whose inverse depth is p times the sample's gets slope * weight * p^2 a; p a is at most 1.
    most = weight * tl.maximum(tl.maximum(p, q), tl.maximum(r, s))
    if LOSS == _RELATIVE:
        most = most / _size(moved)
    elif LOSS == _SQUARED:
        most = most * (2 * tl.abs(residual))
    most = tl.where(used, tl.where(residual == residual, most, float("inf")), 0.0)
    place = Partial + ((clip * tl.num_programs(1) + pair) * tl.num_programs(0) + tl.program_id(0)) * 4
    tl.store(place, tl.sum(tl.where(used, error, 0.0).to(tl.float64) * weight.to(tl.float64), axis=0))
    tl.store(place + 1, tl.sum(weight.to(tl.float64), axis=0))
    tl.store(place + 2, tl.sum(used.to(tl.int32), axis=0).to(tl.float64))
    tl.store(place + 3, tl.max(most, axis=0).to(tl.float64))


@triton.jit
def _add(Sums, place, value, step, used):
    tl.atomic_add(Sums + place, tl.floor(value.to(tl.float64) * step + 0.5).to(tl.int64), mask=used, sem="relaxed")


@triton.jit(do_not_specialize=["first_image"])
def backward_kernel(
    Depth, Truth, Motion, Visible, Weight, Scale, Step, Sums, DMotion, first_image, pairs, height, width,
    depth_clip, depth_frame, truth_clip, truth_frame, motion_clip, motion_channel, motion_frame,
    visible_clip, visible_frame, weight_clip, weight_frame,
    LOSS: tl.constexpr, BACK: tl.constexpr, HAS_VISIBLE: tl.constexpr, HAS_WEIGHT: tl.constexpr, CLAMP: tl.constexpr,
    NEAREST: tl.constexpr, TEST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes DMotion [clips, 3, pairs, H, W] of images (a clip's pairs) from `first_image` on.

    Adds the gradient of the sampled frame to Sums int64 [images, H, W], in units of 1 / Step. Programs: blocks, images.
    """
    image = first_image + tl.program_id(1)
    clip = (image // pairs).to(tl.int64)
    pair = image - clip * pairs
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
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
    Sums += tl.program_id(1) * plane
    _add(Sums, first, slope * (p * p * ((1 - x) * (1 - y))), step, used)
    _add(Sums, first + right, slope * (q * q * (x * (1 - y))), step, used)
    _add(Sums, first + below, slope * (r * r * ((1 - x) * y)), step, used)
    _add(Sums, first + below + right, slope * (s * s * (x * y)), step, used)


@triton.jit(do_not_specialize=["first_image"])
def finish_kernel(
    Sums, DMotion, Unit, DDepth, first_image, pairs, plane, BACK: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Writes DDepth [clips, pairs + 1, H, W] of the frames that the pairs in Sums sampled; sets Sums to 0.

    The sum of Sums, in units of Unit [clips], and the gradient of moved depth, which equals that of dz. Programs:
    blocks, images.
    """
    image = first_image + tl.program_id(1)
    clip = (image // pairs).to(tl.int64)
    pair = image - clip * pairs
    frame = pair if BACK else pair + 1
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = pixel < plane
    place = Sums + tl.program_id(1) * plane + pixel
    total = tl.load(place, mask=real, other=0).to(tl.float64) * tl.load(Unit + clip)
    tl.store(place, tl.zeros(pixel.shape, tl.int64), mask=real)
    if not BACK:
        moved = real & (frame < pairs)
        z_place = DMotion + ((3 * clip + 2) * pairs + frame) * plane + pixel
        total += tl.load(z_place, mask=moved, other=0.0).to(tl.float64)
    DDepth += (clip * (pairs + 1) + frame) * plane
    tl.store(DDepth + pixel, total.to(DDepth.dtype.element_ty), mask=real)
