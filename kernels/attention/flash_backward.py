"""Flash attention backward over rows of tokens, deterministic: every gradient is owned by one program.

Two kernels recompute the weights P = exp(scale q k^T - lse) tile by tile (Dao 2023, FlashAttention-2, Algorithm 2,
without its atomic additions to dq): `queries` owns a tile of queries and runs over the keys that they see, `keys` owns
a tile of keys and runs over the queries that see them. Seven products where five would do with atomics.
"""

import triton
import triton.language as tl

from phys4d.kernels.attention import tiles
from phys4d.kernels.attention.flash_forward import place, visible


@triton.jit
def delta(
    Out, DOut, DLse, Delta, heads, count,
    o_batch, o_token, o_head, do_batch, do_token, do_head, dlse_batch, dlse_head, dlse_token,
    BLOCK: tl.constexpr, D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr, WITH_LSE: tl.constexpr,
    ALIGN: tl.constexpr,
):  # fmt: skip
    """Delta [B, heads, S] = sum of out dout over D, minus dlse: what every dP is taken against."""
    program = tl.program_id(0)
    blocks = tl.cdiv(count, BLOCK)
    query = program % blocks * BLOCK + tl.arange(0, BLOCK)
    head = ((program // blocks) % heads).to(tl.int64)
    clip = (program // blocks // heads).to(tl.int64)
    inside = query < count
    token = query.to(tl.int64)
    Out += (clip * o_batch + head * o_head) * ALIGN
    DOut += (clip * do_batch + head * do_head) * ALIGN
    out = tiles.load(Out, token * o_token, inside, D, 0, DA, True, ALIGN).to(tl.float32)
    dout = tiles.load(DOut, token * do_token, inside, D, 0, DA, True, ALIGN).to(tl.float32)
    total = tl.sum(out * dout, 1)
    if DB > 0:
        out = tiles.load(Out, token * o_token, inside, D, DA, DB, True, ALIGN).to(tl.float32)
        dout = tiles.load(DOut, token * do_token, inside, D, DA, DB, True, ALIGN).to(tl.float32)
        total += tl.sum(out * dout, 1)
    if WITH_LSE:
        total -= tl.load(DLse + clip * dlse_batch + head * dlse_head + token * dlse_token, mask=inside, other=0.0)
    tl.store(Delta + (clip * heads + head) * count + token, total, mask=inside)


@triton.jit
def load_lse(Lse, token, inside, MASKED: tl.constexpr = True):
    """Log-sum-exp in powers of two; queries outside, or that saw nothing, get infinity: all their weights are 0.

    Without MASKED all are inside.
    """
    lse = tl.load(Lse + token, mask=inside, other=float("inf")) if MASKED else tl.load(Lse + token)
    return tl.where(lse == float("-inf"), float("inf"), lse) * 1.4426950408889634


@triton.jit
def toward_queries(
    dq_a, dq_b, q_a, q_b, do_a, do_b, lse, minus, K, V, K_A, K_B, V_A, V_B, clip, head, position, token, there, visible,
    k_stride, v_stride, scale,
    D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
    MASKED: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Adds what the keys at `token` give to dq; with MASKED those that are `there` and `visible`."""
    k_a, k_b = tiles.stream(
        K, K_A, K_B, clip, head, position, token * k_stride, there, D, DA, DB, MASKED, TMA, ALIGN
    )  # fmt: skip
    v_a, v_b = tiles.stream(
        V, V_A, V_B, clip, head, position, token * v_stride, there, D, DA, DB, MASKED, TMA, ALIGN
    )  # fmt: skip
    weights = tl.math.exp2(tiles.dot_transposed(q_a, q_b, k_a, k_b, DB, PRECISION) * scale - lse[:, None])
    if MASKED:
        weights = tl.where(visible, weights, 0.0)
    dweights = tiles.dot_transposed(do_a, do_b, v_a, v_b, DB, PRECISION)
    dscores = (weights * (dweights - minus[:, None])).to(k_a.dtype)
    dq_a = tl.dot(dscores, k_a, dq_a, input_precision=PRECISION)
    if DB > 0:
        dq_b = tl.dot(dscores, k_b, dq_b, input_precision=PRECISION)
    return dq_a, dq_b


@triton.jit
def toward_keys(
    dk_a, dk_b, dv_a, dv_b, k_a, k_b, v_a, v_b, Q, DOut, Q_A, Q_B, DO_A, DO_B, clip, head, position, Lse, Delta,
    token, there, visible, q_stride, do_stride, scale,
    D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
    PARTIAL: tl.constexpr, MASKED: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Adds what the queries at `token` give to dk and dv: with PARTIAL those `there`, with MASKED the pairs `visible`.

    visible: [keys, queries]. Queries that are not there have an infinite lse, hence no weight: that needs no mask.
    """
    q_a, q_b = tiles.stream(
        Q, Q_A, Q_B, clip, head, position, token * q_stride, there, D, DA, DB, PARTIAL, TMA, ALIGN
    )  # fmt: skip
    do_a, do_b = tiles.stream(
        DOut, DO_A, DO_B, clip, head, position, token * do_stride, there, D, DA, DB, PARTIAL, TMA, ALIGN
    )  # fmt: skip
    lse = load_lse(Lse, token, there, PARTIAL)
    minus = tl.load(Delta + token, mask=there, other=0.0) if PARTIAL else tl.load(Delta + token)
    weights = tl.math.exp2(tiles.dot_transposed(k_a, k_b, q_a, q_b, DB, PRECISION) * scale - lse[None, :])
    if MASKED:
        weights = tl.where(visible, weights, 0.0)
    dv_a = tl.dot(weights.to(do_a.dtype), do_a, dv_a, input_precision=PRECISION)
    if DB > 0:
        dv_b = tl.dot(weights.to(do_b.dtype), do_b, dv_b, input_precision=PRECISION)
    dweights = tiles.dot_transposed(v_a, v_b, do_a, do_b, DB, PRECISION)
    dscores = (weights * (dweights - minus[None, :])).to(q_a.dtype)
    dk_a = tl.dot(dscores, q_a, dk_a, input_precision=PRECISION)
    if DB > 0:
        dk_b = tl.dot(dscores, q_b, dk_b, input_precision=PRECISION)
    return dk_a, dk_b, dv_a, dv_b


@triton.jit
def finish_keys(
    DK, DV, dk_a, dk_b, dv_a, dv_b, token, inside, real, dk_token, dv_token, scale,
    D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Writes dk and dv of the keys inside; 0 for those that are not real."""
    natural = scale * 0.6931471805599453
    real = real[:, None]
    dk_a, dk_b = tl.where(real, dk_a * natural, 0.0), tl.where(real, dk_b * natural, 0.0)
    dv_a, dv_b = tl.where(real, dv_a, 0.0), tl.where(real, dv_b, 0.0)
    tiles.store_both(DK, dk_a, dk_b, token * dk_token, inside, D, DA, DB, ALIGN)
    tiles.store_both(DV, dv_a, dv_b, token * dv_token, inside, D, DA, DB, ALIGN)


@triton.jit
def over_keys(
    dq_a, dq_b, q_a, q_b, do_a, do_b, lse, minus, query, query_first, query_last, K, V, K_A, K_B, V_A, V_B, clip, head,
    first, step, count, k_stride, v_stride, scale,
    BLOCK_N: tl.constexpr, D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
    CAUSAL: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Adds what `count` keys of a range, token first + i * step, give to dq."""
    whole, end = count, count
    if CAUSAL:
        whole = tl.minimum(count, query_first + 1)
        end = tl.minimum(count, query_last + 1)
    whole = whole // BLOCK_N * BLOCK_N
    for begin in tl.range(0, whole, BLOCK_N):
        key = begin + tl.arange(0, BLOCK_N)
        token = first + key.to(tl.int64) * step
        dq_a, dq_b = toward_queries(
            dq_a, dq_b, q_a, q_b, do_a, do_b, lse, minus, K, V, K_A, K_B, V_A, V_B, clip, head,
            (first + begin).to(tl.int32), token, key < count, None, k_stride, v_stride, scale,
            D, DA, DB, False, TMA, PRECISION, ALIGN,
        )  # fmt: skip
    for begin in tl.range(whole, end, BLOCK_N, num_stages=1):
        key = begin + tl.arange(0, BLOCK_N)
        token = first + key.to(tl.int64) * step
        seen = (key < count)[None, :]
        if CAUSAL:
            seen = seen & (key[None, :] <= query[:, None])
        dq_a, dq_b = toward_queries(
            dq_a, dq_b, q_a, q_b, do_a, do_b, lse, minus, K, V, K_A, K_B, V_A, V_B, clip, head, 0, token, key < count,
            seen, k_stride, v_stride, scale, D, DA, DB, True, TMA, PRECISION, ALIGN,
        )  # fmt: skip
    return dq_a, dq_b


@triton.jit
def queries(
    Q, K, V, K_A, K_B, V_A, V_B, DOut, Lse, Delta, DQ, Lengths,
    scale, heads, rows,
    own_first, own_row, own_step, own_count, shared_first, shared_count,
    other_first, other_row, other_step, other_count,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head, do_batch, do_token, do_head,
    dq_batch, dq_token, dq_head, lse_batch, lse_head,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
    SHARED: tl.constexpr, CAUSAL: tl.constexpr, PADDED: tl.constexpr, TMA: tl.constexpr,
    PRECISION: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """DQ [B, S, heads, D] of the own queries; scale is times log2(e); Lse and Delta [B, heads, S]."""
    clip, head, row, query_first, query, token, inside = place(
        heads, rows, own_first, own_row, own_step, own_count, BLOCK_M
    )  # fmt: skip
    Q += (clip * q_batch + head * q_head) * ALIGN
    DOut += (clip * do_batch + head * do_head) * ALIGN
    q_a, q_b = tiles.load_both(Q, token * q_token, inside, D, DA, DB, ALIGN)
    do_a, do_b = tiles.load_both(DOut, token * do_token, inside, D, DA, DB, ALIGN)
    lse = load_lse(Lse + clip * lse_batch + head * lse_head, token, inside)
    minus = tl.load(Delta + clip * lse_batch + head * lse_head + token, mask=inside, other=0.0)

    dq_a, dq_b = tiles.zeros_both(BLOCK_M, DA, DB)
    query_last = query_first + BLOCK_M - 1
    K += (clip * k_batch + head * k_head) * ALIGN
    V += (clip * v_batch + head * v_head) * ALIGN
    first = other_first + row * other_row
    if PADDED:
        length = tl.load(Lengths + clip)
        shared_count = visible(shared_count, shared_first, 1, length)
        other_count = visible(other_count, first, other_step, length)
    if SHARED:
        dq_a, dq_b = over_keys(
            dq_a, dq_b, q_a, q_b, do_a, do_b, lse, minus, query, query_first, query_last, K, V, K_A, K_B, V_A, V_B,
            clip.to(tl.int32), head.to(tl.int32), tl.zeros((), tl.int64) + shared_first, 1, shared_count,
            k_token, v_token, scale, BLOCK_N, D, DA, DB, False, TMA, PRECISION, ALIGN,
        )  # fmt: skip
    dq_a, dq_b = over_keys(
        dq_a, dq_b, q_a, q_b, do_a, do_b, lse, minus, query, query_first, query_last, K, V, K_A, K_B, V_A, V_B,
        clip.to(tl.int32), head.to(tl.int32), first, other_step, other_count,
        k_token, v_token, scale, BLOCK_N, D, DA, DB, CAUSAL, TMA, PRECISION, ALIGN,
    )  # fmt: skip

    DQ += (clip * dq_batch + head * dq_head) * ALIGN
    natural = scale * 0.6931471805599453
    tiles.store_both(DQ, dq_a * natural, dq_b * natural, token * dq_token, inside, D, DA, DB, ALIGN)


@triton.jit
def over_queries(
    dk_a, dk_b, dv_a, dv_b, k_a, k_b, v_a, v_b, key, start, Q, DOut, Q_A, Q_B, DO_A, DO_B, clip, head, Lse, Delta,
    first, step, count, q_stride, do_stride, scale,
    BLOCK_M: tl.constexpr, D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
    CAUSAL: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Adds what the queries start to count of a range, token first + i * step, give to dk and dv."""
    whole = tl.maximum(start, count // BLOCK_M * BLOCK_M)
    for begin in tl.range(start, whole, BLOCK_M):
        query = begin + tl.arange(0, BLOCK_M)
        token = first + query.to(tl.int64) * step
        seen = None
        if CAUSAL:
            seen = key[:, None] <= query[None, :]
        dk_a, dk_b, dv_a, dv_b = toward_keys(
            dk_a, dk_b, dv_a, dv_b, k_a, k_b, v_a, v_b, Q, DOut, Q_A, Q_B, DO_A, DO_B, clip, head,
            (first + begin).to(tl.int32), Lse, Delta, token, query < count, seen, q_stride, do_stride, scale,
            D, DA, DB, False, CAUSAL, TMA, PRECISION, ALIGN,
        )  # fmt: skip
    for begin in tl.range(whole, count, BLOCK_M, num_stages=1):
        query = begin + tl.arange(0, BLOCK_M)
        token = first + query.to(tl.int64) * step
        seen = None
        if CAUSAL:
            seen = key[:, None] <= query[None, :]
        dk_a, dk_b, dv_a, dv_b = toward_keys(
            dk_a, dk_b, dv_a, dv_b, k_a, k_b, v_a, v_b, Q, DOut, Q_A, Q_B, DO_A, DO_B, clip, head, 0, Lse, Delta,
            token, query < count, seen, q_stride, do_stride, scale, D, DA, DB, True, CAUSAL, TMA, PRECISION, ALIGN,
        )  # fmt: skip
    return dk_a, dk_b, dv_a, dv_b


@triton.jit
def keys(
    Q, K, V, DOut, Q_A, Q_B, DO_A, DO_B, Lse, Delta, DK, DV, Lengths,
    scale, heads, rows,
    own_first, own_row, own_step, own_count, shared_first, shared_count,
    other_first, other_row, other_step, other_count,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head, do_batch, do_token, do_head,
    dk_batch, dk_token, dk_head, dv_batch, dv_token, dv_head, lse_batch, lse_head,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
    SHARED: tl.constexpr, CAUSAL: tl.constexpr, PADDED: tl.constexpr, TMA: tl.constexpr,
    PRECISION: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """DK, DV [B, S, heads, D] of the own keys; the shared and other tokens are the queries that see them."""
    clip, head, row, key_first, key, token, inside = place(
        heads, rows, own_first, own_row, own_step, own_count, BLOCK_N
    )  # fmt: skip
    real = inside
    if PADDED:
        real = inside & (token < tl.load(Lengths + clip))
    K += (clip * k_batch + head * k_head) * ALIGN
    V += (clip * v_batch + head * v_head) * ALIGN
    # Padding is not even read: what stands there may be NaN.
    k_a, k_b = tiles.load_both(K, token * k_token, real, D, DA, DB, ALIGN)
    v_a, v_b = tiles.load_both(V, token * v_token, real, D, DA, DB, ALIGN)

    dk_a, dk_b = tiles.zeros_both(BLOCK_N, DA, DB)
    dv_a, dv_b = tiles.zeros_both(BLOCK_N, DA, DB)
    Q += (clip * q_batch + head * q_head) * ALIGN
    DOut += (clip * do_batch + head * do_head) * ALIGN
    Lse += clip * lse_batch + head * lse_head
    Delta += clip * lse_batch + head * lse_head
    if SHARED:
        dk_a, dk_b, dv_a, dv_b = over_queries(
            dk_a, dk_b, dv_a, dv_b, k_a, k_b, v_a, v_b, key, 0, Q, DOut, Q_A, Q_B, DO_A, DO_B,
            clip.to(tl.int32), head.to(tl.int32), Lse, Delta, tl.zeros((), tl.int64) + shared_first, 1, shared_count,
            q_token, do_token, scale, BLOCK_M, D, DA, DB, False, TMA, PRECISION, ALIGN,
        )  # fmt: skip
    start = 0
    if CAUSAL:
        start = key_first // BLOCK_M * BLOCK_M
    dk_a, dk_b, dv_a, dv_b = over_queries(
        dk_a, dk_b, dv_a, dv_b, k_a, k_b, v_a, v_b, key, start, Q, DOut, Q_A, Q_B, DO_A, DO_B,
        clip.to(tl.int32), head.to(tl.int32), Lse, Delta, other_first + row * other_row, other_step, other_count,
        q_token, do_token, scale, BLOCK_M, D, DA, DB, CAUSAL, TMA, PRECISION, ALIGN,
    )  # fmt: skip

    clip, head, row, key_first, key, token, inside = place(
        heads, rows, own_first, own_row, own_step, own_count, BLOCK_N, True
    )  # fmt: skip
    real = inside
    if PADDED:
        real = inside & (token < tl.load(Lengths + clip))
    DK += (clip * dk_batch + head * dk_head) * ALIGN
    DV += (clip * dv_batch + head * dv_head) * ALIGN
    finish_keys(
        DK, DV, dk_a, dk_b, dv_a, dv_b, token, inside, real, dk_token, dv_token, scale, D, DA, DB, ALIGN
    )  # fmt: skip
