"""Triton kernels of the scene flow loss: each program works on a tile of ROWS x COLUMNS pixels of one pair of frames.

Forward writes two numbers per program (sum, weights), which the host adds up in a fixed order; backward computes the
loss again and writes every element once. Both are limited by memory: forward reads 33 bytes per pixel and pair in
float32 (37 with weights), backward writes 16 more. Two-dimensional tiles make the division of a pixel by the width
unnecessary.

The difference of both flows is computed from differences of depth and motion: differences of points, which are large,
would lose digits.

    e = (ray' - ray) (D - D*) + ray' (dz - dz*) + (ray' - ray'*) (D* + dz*)

with ray = ((u - ...) / fx, (v - cy) / fy, 1) of the pixel at t, ray' of its landing point at t + 1, * for the truth.
"""

import triton
import triton.language as tl


@triton.jit
def _camera(Intrinsics, frame):
    """1 / fx, 1 / fy, skew, cx, cy."""
    k = Intrinsics + frame * 9
    one = tl.full((), 1.0, Intrinsics.dtype.element_ty)
    return one / tl.load(k), one / tl.load(k + 4), tl.load(k + 1), tl.load(k + 2), tl.load(k + 5)


@triton.jit
def _compare(
    Depth, Motion, TrueDepth, TrueMotion, Valid, Weight, Intrinsics, height, width, across,
    depth_clip, depth_frame, motion_clip, motion_channel, motion_frame, true_depth_clip, true_depth_frame,
    true_motion_clip, true_motion_channel, true_motion_frame, valid_clip, valid_frame, weight_clip, weight_frame,
    HAS_WEIGHT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """For one tile: its position, the difference of both flows, and the terms of the gradient."""
    tile, pairs = tl.program_id(0), tl.num_programs(1)
    pair, clip = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    row = (tile // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = (tile % across).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    real = (row < height) & (column < width)
    pixel = row * width + column
    valid = tl.load(Valid + clip * valid_clip + pair * valid_frame + pixel, mask=real, other=0) != 0
    motion = Motion + clip * motion_clip + pair * motion_frame + pixel
    true_motion = TrueMotion + clip * true_motion_clip + pair * true_motion_frame + pixel
    depth = tl.load(Depth + clip * depth_clip + pair * depth_frame + pixel, mask=real, other=1.0)
    true_depth = tl.load(TrueDepth + clip * true_depth_clip + pair * true_depth_frame + pixel, mask=real, other=1.0)
    du, true_du = tl.load(motion, mask=real, other=0.0), tl.load(true_motion, mask=real, other=0.0)
    dv = tl.load(motion + motion_channel, mask=real, other=0.0)
    true_dv = tl.load(true_motion + true_motion_channel, mask=real, other=0.0)
    dz = tl.load(motion + 2 * tl.cast(motion_channel, tl.int64), mask=real, other=0.0)
    true_dz = tl.load(true_motion + 2 * tl.cast(true_motion_channel, tl.int64), mask=real, other=0.0)
    weight = valid.to(depth.dtype)
    if HAS_WEIGHT:
        weight = tl.load(Weight + clip * weight_clip + pair * weight_frame + pixel, mask=real, other=0.0)
        weight = tl.where(valid, weight, 0.0)
    frame = clip * (pairs + 1) + pair
    own_across, own_down, own_skew, own_u, own_v = _camera(Intrinsics, frame)
    to_x, to_y, skew, centre_u, centre_v = _camera(Intrinsics, frame + 1)
    u, v = column.to(depth.dtype) + 0.5, row.to(depth.dtype) + 0.5
    own_y = (v - own_v) * own_down
    own_x = (u - own_u - own_skew * own_y) * own_across
    ray_y = (v + dv - centre_v) * to_y
    ray_x = (u + du - centre_u - skew * ray_y) * to_x
    between_y = (dv - true_dv) * to_y
    between_x = (du - true_du - skew * between_y) * to_x
    deeper, farther, landed = depth - true_depth, dz - true_dz, true_depth + true_dz
    off_x, off_y = ray_x - own_x, ray_y - own_y
    x = tl.where(valid, off_x * deeper + ray_x * farther + between_x * landed, 0.0)
    y = tl.where(valid, off_y * deeper + ray_y * farther + between_y * landed, 0.0)
    z = tl.where(valid, farther, 0.0)
    distance = tl.sqrt(x * x + y * y + z * z)
    return clip, pair, pixel, real, weight, x, y, z, distance, ray_x, ray_y, off_x, off_y, depth + dz, to_x, to_y, skew


@triton.jit
def forward_kernel(
    Depth, Motion, TrueDepth, TrueMotion, Valid, Weight, Intrinsics, Partial, height, width, across,
    depth_clip, depth_frame, motion_clip, motion_channel, motion_frame, true_depth_clip, true_depth_frame,
    true_motion_clip, true_motion_channel, true_motion_frame, valid_clip, valid_frame, weight_clip, weight_frame,
    HAS_WEIGHT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Writes Partial float64 [clips, pairs, tiles, 2]."""
    clip, pair, _, _, weight, _, _, _, distance, _, _, _, _, _, _, _, _ = _compare(
        Depth, Motion, TrueDepth, TrueMotion, Valid, Weight, Intrinsics, height, width, across,
        depth_clip, depth_frame, motion_clip, motion_channel, motion_frame, true_depth_clip, true_depth_frame,
        true_motion_clip, true_motion_channel, true_motion_frame, valid_clip, valid_frame, weight_clip, weight_frame,
        HAS_WEIGHT, ROWS, COLUMNS,
    )  # fmt: skip
    exact = weight.to(tl.float64)
    Partial += ((clip * tl.num_programs(1) + pair) * tl.num_programs(0) + tl.program_id(0)) * 2
    tl.store(Partial, tl.sum(tl.sum(distance.to(tl.float64) * exact, axis=1), axis=0))
    tl.store(Partial + 1, tl.sum(tl.sum(exact, axis=1), axis=0))


@triton.jit
def backward_kernel(
    Depth, Motion, TrueDepth, TrueMotion, Valid, Weight, Intrinsics, Scale, DDepth, DMotion,
    height, width, across,
    depth_clip, depth_frame, motion_clip, motion_channel, motion_frame, true_depth_clip, true_depth_frame,
    true_motion_clip, true_motion_channel, true_motion_frame, valid_clip, valid_frame, weight_clip, weight_frame,
    HAS_WEIGHT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Writes DMotion [clips, 3, pairs, H, W] and all but the last frames of DDepth [clips, pairs + 1, H, W]."""
    clip, pair, pixel, real, weight, x, y, z, distance, ray_x, ray_y, off_x, off_y, landed, to_x, to_y, skew = _compare(
        Depth, Motion, TrueDepth, TrueMotion, Valid, Weight, Intrinsics, height, width, across,
        depth_clip, depth_frame, motion_clip, motion_channel, motion_frame, true_depth_clip, true_depth_frame,
        true_motion_clip, true_motion_channel, true_motion_frame, valid_clip, valid_frame, weight_clip, weight_frame,
        HAS_WEIGHT, ROWS, COLUMNS,
    )  # fmt: skip
    apart = distance != 0  # the distance has no derivative where the error is 0
    k = tl.load(Scale + clip).to(distance.dtype) * weight / tl.where(apart, distance, 1.0)
    x, y, z = k * x, k * y, k * z
    along_u = x * to_x * landed
    pairs = tl.num_programs(1)
    plane = tl.cast(height, tl.int64) * width
    place = DMotion + (3 * clip * pairs + pair) * plane + pixel
    d_depth = tl.where(apart, x * off_x + y * off_y, 0.0)
    tl.store(DDepth + (clip * (pairs + 1) + pair) * plane + pixel, d_depth, mask=real)
    tl.store(place, tl.where(apart, along_u, 0.0), mask=real)
    tl.store(place + pairs * plane, tl.where(apart, (y * landed - along_u * skew) * to_y, 0.0), mask=real)
    tl.store(place + 2 * pairs * plane, tl.where(apart, x * ray_x + y * ray_y + z, 0.0), mask=real)
