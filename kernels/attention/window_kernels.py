"""Attention in exact 3D windows over any grid, forward and backward, without padding or permutation.

A program owns a box of cells (BT x BH x BW) and meets the smallest box that holds all their windows: first the text,
then, for every stretch of BLOCK_N cells of that box's frame, all of its times. Within a stretch the addresses of the
next time are those of the last plus one frame, and the windows' heights and widths are compared once for all times.
Towards keys it is the same picture with the windows turned around: the queries that see a key are a box, too.
"""

import triton
import triton.language as tl

from phys4d.kernels.attention import tiles
from phys4d.kernels.attention.flash_backward import over_keys as over_keys_backward
from phys4d.kernels.attention.flash_backward import over_queries
from phys4d.kernels.attention.flash_backward_steps import finish_keys, load_lse, toward_keys, toward_queries
from phys4d.kernels.attention.flash_forward import attend, finish, over_keys, visible


@triton.jit
def _begin(i, size, window):
    """Where the window of position i begins."""
    return tl.minimum(tl.maximum(i - window // 2, 0), size - window)


@triton.jit
def _first_seeing(i, window):
    """The first position whose window holds i."""
    return tl.where(i - window + 1 <= 0, 0, i - window + 1 + window // 2)


@triton.jit
def _last_seeing(i, size, window):
    """The last position whose window holds i."""
    return tl.where(i >= size - window, size - 1, i + window // 2)


@triton.jit
def _box(heads, time, height, width, begin, BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr):
    """Of the program: clip, head, corner of its box; of its cells: coordinates, tokens, which of them the grid has."""
    program = tl.program_id(0)
    across, down, deep = tl.cdiv(width, BW), tl.cdiv(height, BH), tl.cdiv(time, BT)
    w0 = program % across * BW
    h0 = program // across % down * BH
    t0 = program // across // down % deep * BT
    cell = tl.arange(0, BT * BH * BW)
    t, h, w = t0 + cell // (BH * BW), h0 + cell // BW % BH, w0 + cell % BW
    boxes = across * down * deep
    head, clip = ((program // boxes) % heads).to(tl.int64), (program // boxes // heads).to(tl.int64)
    token = begin + ((t * height + h) * width + w).to(tl.int64)
    return clip, head, t0, h0, w0, t, h, w, token, (t < time) & (h < height) & (w < width)


@triton.jit
def _met(
    t0, h0, w0, time, height, width, t_window, h_window, w_window, BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr
):  # fmt: skip
    """The box of keys that holds the windows of a box of queries: where it begins and ends along every axis."""
    t_high = _begin(tl.minimum(t0 + BT, time) - 1, time, t_window) + t_window
    h_high = _begin(tl.minimum(h0 + BH, height) - 1, height, h_window) + h_window
    w_high = _begin(tl.minimum(w0 + BW, width) - 1, width, w_window) + w_window
    t_low, h_low, w_low = _begin(t0, time, t_window), _begin(h0, height, h_window), _begin(w0, width, w_window)
    return t_low, t_high, h_low, h_high, w_low, w_high


@triton.jit
def _stretch(first, h_low, h_high, w_low, w_high, BLOCK_N: tl.constexpr):
    """Rows and columns of BLOCK_N cells of a frame's part, from its cell `first` on, and which of them it has."""
    cell = first + tl.arange(0, BLOCK_N)
    return h_low + cell // (w_high - w_low), w_low + cell % (w_high - w_low), cell < (h_high - h_low) * (w_high - w_low)


@triton.jit
def _near(h, w, key_h, key_w, there, height, width, h_window, w_window):
    """Which keys [1, N] are there and in the windows of queries at h, w [M, 1], by height and width only."""
    h_begin, w_begin = _begin(h, height, h_window), _begin(w, width, w_window)
    near = there & (key_h >= h_begin) & (key_h < h_begin + h_window)
    return near & (key_w >= w_begin) & (key_w < w_begin + w_window)


@triton.jit
def forward(
    Q, K, V, Out, Lse, Lengths, scale, heads, time, height, width, t_window, h_window, w_window,
    begin, text_start, text_tokens,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head, o_batch, o_token, o_head,
    lse_batch, lse_head,
    BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BLOCK_N: tl.constexpr,
    D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
    SHARED: tl.constexpr, PADDED: tl.constexpr, PRECISION: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Out [B, S, heads, D] and Lse [B, heads, S] of the video's queries; the video begins at token `begin`."""
    clip, head, t0, h0, w0, t, h, w, token, inside = _box(heads, time, height, width, begin, BT, BH, BW)
    Q += (clip * q_batch + head * q_head) * ALIGN
    K += (clip * k_batch + head * k_head) * ALIGN
    V += (clip * v_batch + head * v_head) * ALIGN
    q_a, q_b = tiles.load_both(Q, token * q_token, inside, D, DA, DB, ALIGN)
    acc_a, acc_b = tiles.zeros_both(BT * BH * BW, DA, DB)
    largest = tl.full((BT * BH * BW,), float("-inf"), tl.float32)
    total = tl.zeros((BT * BH * BW,), tl.float32)
    length = begin + time * height * width + text_tokens
    if PADDED:
        length = tl.load(Lengths + clip)
        text_tokens = visible(text_tokens, text_start, 1, length)
    if SHARED:
        acc_a, acc_b, largest, total = over_keys(
            acc_a, acc_b, largest, total, q_a, q_b, token, 0, 0, K, V, K, K, V, V, 0, 0,
            tl.zeros((), tl.int64) + text_start, 1, text_tokens, k_token, v_token, scale,
            BLOCK_N, D, DA, DB, False, False, PRECISION, ALIGN,
        )  # fmt: skip

    t_begin = _begin(t, time, t_window)
    t_low, t_high, h_low, h_high, w_low, w_high = _met(
        t0, h0, w0, time, height, width, t_window, h_window, w_window, BT, BH, BW
    )
    for first in range(0, (h_high - h_low) * (w_high - w_low), BLOCK_N):
        key_h, key_w, there = _stretch(first, h_low, h_high, w_low, w_high, BLOCK_N)
        near = _near(
            h[:, None], w[:, None], key_h[None, :], key_w[None, :], there[None, :], height, width, h_window, w_window
        )
        for key_t in tl.range(t_low, t_high):
            key = begin + ((key_t * height + key_h) * width + key_w).to(tl.int64)
            seen = near & ((key_t >= t_begin) & (key_t < t_begin + t_window))[:, None]
            real = there
            if PADDED:
                real = there & (key < length)
                seen = seen & real[None, :]
            acc_a, acc_b, largest, total = attend(
                acc_a, acc_b, largest, total, q_a, q_b, K, V, K, K, V, V, 0, 0, 0, key, real, seen,
                k_token, v_token, scale, D, DA, DB, True, False, PRECISION, ALIGN,
            )  # fmt: skip

    Out += (clip * o_batch + head * o_head) * ALIGN
    Lse += clip * lse_batch + head * lse_head
    finish(Out, Lse, acc_a, acc_b, largest, total, token, inside, o_token, D, DA, DB, ALIGN)


@triton.jit
def queries(
    Q, K, V, DOut, Lse, Delta, DQ, Lengths, scale, heads, time, height, width, t_window, h_window, w_window,
    begin, text_start, text_tokens,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head, do_batch, do_token, do_head,
    dq_batch, dq_token, dq_head, lse_batch, lse_head,
    BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BLOCK_N: tl.constexpr,
    D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
    SHARED: tl.constexpr, PADDED: tl.constexpr, PRECISION: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """DQ [B, S, heads, D] of the video's queries; Lse and Delta [B, heads, S]."""
    clip, head, t0, h0, w0, t, h, w, token, inside = _box(heads, time, height, width, begin, BT, BH, BW)
    Q += (clip * q_batch + head * q_head) * ALIGN
    K += (clip * k_batch + head * k_head) * ALIGN
    V += (clip * v_batch + head * v_head) * ALIGN
    DOut += (clip * do_batch + head * do_head) * ALIGN
    q_a, q_b = tiles.load_both(Q, token * q_token, inside, D, DA, DB, ALIGN)
    do_a, do_b = tiles.load_both(DOut, token * do_token, inside, D, DA, DB, ALIGN)
    dq_a, dq_b = tiles.zeros_both(BT * BH * BW, DA, DB)
    lse = load_lse(Lse + clip * lse_batch + head * lse_head, token, inside)
    minus = tl.load(Delta + clip * lse_batch + head * lse_head + token, mask=inside, other=0.0)
    length = begin + time * height * width + text_tokens
    if PADDED:
        length = tl.load(Lengths + clip)
        text_tokens = visible(text_tokens, text_start, 1, length)
    if SHARED:
        dq_a, dq_b = over_keys_backward(
            dq_a, dq_b, q_a, q_b, do_a, do_b, lse, minus, token, 0, 0, K, V, K, K, V, V, 0, 0,
            tl.zeros((), tl.int64) + text_start, 1, text_tokens, k_token, v_token, scale,
            BLOCK_N, D, DA, DB, False, False, PRECISION, ALIGN,
        )  # fmt: skip

    t_begin = _begin(t, time, t_window)
    t_low, t_high, h_low, h_high, w_low, w_high = _met(
        t0, h0, w0, time, height, width, t_window, h_window, w_window, BT, BH, BW
    )
    for first in range(0, (h_high - h_low) * (w_high - w_low), BLOCK_N):
        key_h, key_w, there = _stretch(first, h_low, h_high, w_low, w_high, BLOCK_N)
        near = _near(
            h[:, None], w[:, None], key_h[None, :], key_w[None, :], there[None, :], height, width, h_window, w_window
        )
        for key_t in tl.range(t_low, t_high):
            key = begin + ((key_t * height + key_h) * width + key_w).to(tl.int64)
            seen = near & ((key_t >= t_begin) & (key_t < t_begin + t_window))[:, None]
            real = there
            if PADDED:
                real = there & (key < length)
                seen = seen & real[None, :]
            dq_a, dq_b = toward_queries(
                dq_a, dq_b, q_a, q_b, do_a, do_b, lse, minus, K, V, K, K, V, V, 0, 0, 0, key, real, seen,
                k_token, v_token, scale, D, DA, DB, True, False, PRECISION, ALIGN,
            )  # fmt: skip

    DQ += (clip * dq_batch + head * dq_head) * ALIGN
    natural = scale * 0.6931471805599453
    tiles.store_both(DQ, dq_a * natural, dq_b * natural, token * dq_token, inside, D, DA, DB, ALIGN)


@triton.jit
def keys(
    Q, K, V, DOut, Lse, Delta, DK, DV, Lengths, scale, heads, time, height, width, t_window, h_window, w_window,
    begin, text_start, text_tokens,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head, do_batch, do_token, do_head,
    dk_batch, dk_token, dk_head, dv_batch, dv_token, dv_head, lse_batch, lse_head,
    BT: tl.constexpr, BH: tl.constexpr, BW: tl.constexpr, BLOCK_N: tl.constexpr,
    D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
    SHARED: tl.constexpr, PADDED: tl.constexpr, PRECISION: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """DK, DV [B, S, heads, D] of the video's keys; BLOCK_N queries at a time."""
    clip, head, t0, h0, w0, t, h, w, token, inside = _box(heads, time, height, width, begin, BT, BH, BW)
    real = inside
    if PADDED:
        real = inside & (token < tl.load(Lengths + clip))
    K += (clip * k_batch + head * k_head) * ALIGN
    V += (clip * v_batch + head * v_head) * ALIGN
    k_a, k_b = tiles.load_both(K, token * k_token, real, D, DA, DB, ALIGN)
    v_a, v_b = tiles.load_both(V, token * v_token, real, D, DA, DB, ALIGN)
    dk_a, dk_b = tiles.zeros_both(BT * BH * BW, DA, DB)
    dv_a, dv_b = tiles.zeros_both(BT * BH * BW, DA, DB)
    Q += (clip * q_batch + head * q_head) * ALIGN
    DOut += (clip * do_batch + head * do_head) * ALIGN
    Lse += clip * lse_batch + head * lse_head
    Delta += clip * lse_batch + head * lse_head
    if SHARED:
        dk_a, dk_b, dv_a, dv_b = over_queries(
            dk_a, dk_b, dv_a, dv_b, k_a, k_b, v_a, v_b, token, 0, Q, DOut, Q, Q, DOut, DOut, 0, 0, Lse, Delta,
            tl.zeros((), tl.int64) + text_start, 1, text_tokens, q_token, do_token, scale,
            BLOCK_N, D, DA, DB, False, False, PRECISION, ALIGN,
        )  # fmt: skip

    t_low, h_low, w_low = _first_seeing(t0, t_window), _first_seeing(h0, h_window), _first_seeing(w0, w_window)
    t_high = _last_seeing(tl.minimum(t0 + BT, time) - 1, time, t_window) + 1
    h_high = _last_seeing(tl.minimum(h0 + BH, height) - 1, height, h_window) + 1
    w_high = _last_seeing(tl.minimum(w0 + BW, width) - 1, width, w_window) + 1
    for first in range(0, (h_high - h_low) * (w_high - w_low), BLOCK_N):
        query_h, query_w, there = _stretch(first, h_low, h_high, w_low, w_high, BLOCK_N)
        near = _near(
            query_h[None, :], query_w[None, :], h[:, None], w[:, None], True, height, width, h_window, w_window
        )
        for query_t in tl.range(t_low, t_high):
            query = begin + ((query_t * height + query_h) * width + query_w).to(tl.int64)
            t_begin = _begin(query_t, time, t_window)
            seen = near & ((t >= t_begin) & (t < t_begin + t_window))[:, None]
            dk_a, dk_b, dv_a, dv_b = toward_keys(
                dk_a, dk_b, dv_a, dv_b, k_a, k_b, v_a, v_b, Q, DOut, Q, Q, DOut, DOut, 0, 0, 0, Lse, Delta, query,
                there, seen, q_token, do_token, scale, D, DA, DB, True, True, False, PRECISION, ALIGN,
            )  # fmt: skip

    DK += (clip * dk_batch + head * dk_head) * ALIGN
    DV += (clip * dv_batch + head * dv_head) * ALIGN
    finish_keys(
        DK, DV, dk_a, dk_b, dv_a, dv_b, token, inside, real, dk_token, dv_token, scale, D, DA, DB, ALIGN
    )  # fmt: skip
