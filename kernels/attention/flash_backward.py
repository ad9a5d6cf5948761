"""Flash attention backward over rows of tokens, deterministic: every gradient is owned by one program.

Two kernels recompute the weights P = exp(scale q k^T - lse) tile by tile (Dao 2023, FlashAttention-2, Algorithm 2,
without its atomic additions to dq): `queries` owns a tile of queries and runs over the keys that they see, `keys` owns
a tile of keys and runs over the queries that see them. Seven products where five would do with atomics.
"""

import triton
import triton.language as tl

from phys4d.kernels.attention import tiles
from phys4d.kernels.attention.flash_backward_steps import finish_keys, load_lse, toward_keys, toward_queries
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
def over_keys(
    dq_a, dq_b, q_a, q_b, do_a, do_b, lse, minus, query, query_first, query_last, K, V, K_A, K_B, V_A, V_B, clip, head,
    first, step, count, k_stride, v_stride, scale,
    BLOCK_N: tl.constexpr, D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
    CAUSAL: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr, ALIGN: tl.constexpr,
    Mask=None, row=None, m_key=0, inside=None, BIASED: tl.constexpr = False,
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
        bias = None
        if BIASED:
            bias = tiles.bias(Mask, row[:, None] + (token * m_key)[None, :], inside[:, None])
        dq_a, dq_b = toward_queries(
            dq_a, dq_b, q_a, q_b, do_a, do_b, lse, minus, K, V, K_A, K_B, V_A, V_B, clip, head,
            (first + begin).to(tl.int32), token, key < count, None, k_stride, v_stride, scale,
            D, DA, DB, False, TMA, PRECISION, ALIGN, bias, BIASED,
        )  # fmt: skip
    for begin in tl.range(whole, end, BLOCK_N, num_stages=1):
        key = begin + tl.arange(0, BLOCK_N)
        token = first + key.to(tl.int64) * step
        seen = (key < count)[None, :]
        if CAUSAL:
            seen = seen & (key[None, :] <= query[:, None])
        bias = None
        if BIASED:
            bias = tiles.bias(Mask, row[:, None] + (token * m_key)[None, :], inside[:, None] & (key < count)[None, :])
        dq_a, dq_b = toward_queries(
            dq_a, dq_b, q_a, q_b, do_a, do_b, lse, minus, K, V, K_A, K_B, V_A, V_B, clip, head, 0, token, key < count,
            seen, k_stride, v_stride, scale, D, DA, DB, True, TMA, PRECISION, ALIGN, bias, BIASED,
        )  # fmt: skip
    return dq_a, dq_b


@triton.jit
def queries(
    Q, K, V, K_A, K_B, V_A, V_B, DOut, Lse, Delta, DQ, Lengths, Mask,
    scale, heads, rows,
    own_first, own_row, own_step, own_count, shared_first, shared_count,
    other_first, other_row, other_step, other_count,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head, do_batch, do_token, do_head,
    dq_batch, dq_token, dq_head, lse_batch, lse_head, m_batch, m_head, m_query, m_key,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
    SHARED: tl.constexpr, CAUSAL: tl.constexpr, PADDED: tl.constexpr, TMA: tl.constexpr,
    PRECISION: tl.constexpr, ALIGN: tl.constexpr, GROUP: tl.constexpr, BIASED: tl.constexpr,
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
    kv_head = head
    if GROUP > 1:
        kv_head = head // GROUP
    K += (clip * k_batch + kv_head * k_head) * ALIGN
    V += (clip * v_batch + kv_head * v_head) * ALIGN
    mask_row = None
    if BIASED:
        Mask += clip * m_batch + head * m_head
        mask_row = token * m_query
    first = other_first + row * other_row
    if PADDED:
        length = tl.load(Lengths + clip)
        shared_count = visible(shared_count, shared_first, 1, length)
        other_count = visible(other_count, first, other_step, length)
    if SHARED:
        dq_a, dq_b = over_keys(
            dq_a, dq_b, q_a, q_b, do_a, do_b, lse, minus, query, query_first, query_last, K, V, K_A, K_B, V_A, V_B,
            clip.to(tl.int32), kv_head.to(tl.int32), tl.zeros((), tl.int64) + shared_first, 1, shared_count,
            k_token, v_token, scale, BLOCK_N, D, DA, DB, False, TMA, PRECISION, ALIGN,
            Mask, mask_row, m_key, inside, BIASED,
        )  # fmt: skip
    dq_a, dq_b = over_keys(
        dq_a, dq_b, q_a, q_b, do_a, do_b, lse, minus, query, query_first, query_last, K, V, K_A, K_B, V_A, V_B,
        clip.to(tl.int32), kv_head.to(tl.int32), first, other_step, other_count,
        k_token, v_token, scale, BLOCK_N, D, DA, DB, CAUSAL, TMA, PRECISION, ALIGN,
        Mask, mask_row, m_key, inside, BIASED,
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
    Mask=None, column=None, m_query=0, real=None, BIASED: tl.constexpr = False,
):  # fmt: skip
    """Adds what the queries start to count of a range, token first + i * step, give to dk and dv.

    Mask, column, m_query, real: with BIASED, of the head, where the keys' columns begin, and which keys there are.
    """
    whole = tl.maximum(start, count // BLOCK_M * BLOCK_M)
    for begin in tl.range(start, whole, BLOCK_M):
        query = begin + tl.arange(0, BLOCK_M)
        token = first + query.to(tl.int64) * step
        seen = None
        if CAUSAL:
            seen = key[:, None] <= query[None, :]
        bias = None
        if BIASED:
            bias = tiles.bias(Mask, column[:, None] + (token * m_query)[None, :], real[:, None])
        dk_a, dk_b, dv_a, dv_b = toward_keys(
            dk_a, dk_b, dv_a, dv_b, k_a, k_b, v_a, v_b, Q, DOut, Q_A, Q_B, DO_A, DO_B, clip, head,
            (first + begin).to(tl.int32), Lse, Delta, token, query < count, seen, q_stride, do_stride, scale,
            D, DA, DB, False, CAUSAL, TMA, PRECISION, ALIGN, bias, BIASED,
        )  # fmt: skip
    for begin in tl.range(whole, count, BLOCK_M, num_stages=1):
        query = begin + tl.arange(0, BLOCK_M)
        token = first + query.to(tl.int64) * step
        seen = None
        if CAUSAL:
            seen = key[:, None] <= query[None, :]
        bias = None
        if BIASED:
            there = real[:, None] & (query < count)[None, :]
            bias = tiles.bias(Mask, column[:, None] + (token * m_query)[None, :], there)
        dk_a, dk_b, dv_a, dv_b = toward_keys(
            dk_a, dk_b, dv_a, dv_b, k_a, k_b, v_a, v_b, Q, DOut, Q_A, Q_B, DO_A, DO_B, clip, head, 0, Lse, Delta,
            token, query < count, seen, q_stride, do_stride, scale, D, DA, DB, True, CAUSAL, TMA, PRECISION, ALIGN,
            bias, BIASED,
        )  # fmt: skip
    return dk_a, dk_b, dv_a, dv_b


@triton.jit
def over_head(
    dk_a, dk_b, dv_a, dv_b, k_a, k_b, v_a, v_b, key, start, Q, DOut, Q_A, Q_B, DO_A, DO_B, Lse, Delta, Mask,
    column, real, clip, head, shared_first, shared_count, first, step, count,
    q_batch, q_token, q_head, do_batch, do_token, do_head, lse_batch, lse_head, m_batch, m_head, m_query, scale,
    BLOCK_M: tl.constexpr, D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr, SHARED: tl.constexpr,
    CAUSAL: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr, ALIGN: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """Adds what the queries of one head give to dk and dv: those shared by all rows, then those of the row."""
    Q += (clip * q_batch + head * q_head) * ALIGN
    DOut += (clip * do_batch + head * do_head) * ALIGN
    Lse += clip * lse_batch + head * lse_head
    Delta += clip * lse_batch + head * lse_head
    if BIASED:
        Mask += clip * m_batch + head * m_head
    if SHARED:
        dk_a, dk_b, dv_a, dv_b = over_queries(
            dk_a, dk_b, dv_a, dv_b, k_a, k_b, v_a, v_b, key, 0, Q, DOut, Q_A, Q_B, DO_A, DO_B,
            clip.to(tl.int32), head.to(tl.int32), Lse, Delta, tl.zeros((), tl.int64) + shared_first, 1, shared_count,
            q_token, do_token, scale, BLOCK_M, D, DA, DB, False, TMA, PRECISION, ALIGN,
            Mask, column, m_query, real, BIASED,
        )  # fmt: skip
    return over_queries(
        dk_a, dk_b, dv_a, dv_b, k_a, k_b, v_a, v_b, key, start, Q, DOut, Q_A, Q_B, DO_A, DO_B,
        clip.to(tl.int32), head.to(tl.int32), Lse, Delta, first, step, count,
        q_token, do_token, scale, BLOCK_M, D, DA, DB, CAUSAL, TMA, PRECISION, ALIGN,
        Mask, column, m_query, real, BIASED,
    )  # fmt: skip


@triton.jit
def keys(
    Q, K, V, DOut, Q_A, Q_B, DO_A, DO_B, Lse, Delta, DK, DV, Lengths, Mask,
    scale, heads, rows,
    own_first, own_row, own_step, own_count, shared_first, shared_count,
    other_first, other_row, other_step, other_count,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head, do_batch, do_token, do_head,
    dk_batch, dk_token, dk_head, dv_batch, dv_token, dv_head, lse_batch, lse_head,
    m_batch, m_head, m_query, m_key,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
    SHARED: tl.constexpr, CAUSAL: tl.constexpr, PADDED: tl.constexpr, TMA: tl.constexpr,
    PRECISION: tl.constexpr, ALIGN: tl.constexpr, GROUP: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """DK, DV [B, S, heads, D] of the own keys; the shared and other tokens are the queries that see them.

    `heads` of K and V, each of which meets GROUP of Q, one after the other.
    """
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
    column = None
    if BIASED:
        column = token * m_key
    start = 0
    if CAUSAL:
        start = key_first // BLOCK_M * BLOCK_M
    if GROUP == 1:
        dk_a, dk_b, dv_a, dv_b = over_head(
            dk_a, dk_b, dv_a, dv_b, k_a, k_b, v_a, v_b, key, start, Q, DOut, Q_A, Q_B, DO_A, DO_B, Lse, Delta, Mask,
            column, real, clip, head, shared_first, shared_count, other_first + row * other_row, other_step,
            other_count, q_batch, q_token, q_head, do_batch, do_token, do_head, lse_batch, lse_head, m_batch, m_head,
            m_query, scale, BLOCK_M, D, DA, DB, SHARED, CAUSAL, TMA, PRECISION, ALIGN, BIASED,
        )  # fmt: skip
    else:
        for member in tl.range(0, GROUP):
            dk_a, dk_b, dv_a, dv_b = over_head(
                dk_a, dk_b, dv_a, dv_b, k_a, k_b, v_a, v_b, key, start, Q, DOut, Q_A, Q_B, DO_A, DO_B, Lse, Delta, Mask,
                column, real, clip, head * GROUP + member, shared_first, shared_count, other_first + row * other_row,
                other_step, other_count, q_batch, q_token, q_head, do_batch, do_token, do_head, lse_batch, lse_head,
                m_batch, m_head, m_query, scale, BLOCK_M, D, DA, DB, SHARED, CAUSAL, TMA, PRECISION, ALIGN, BIASED,
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
