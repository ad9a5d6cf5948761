"""Flash attention forward over rows of tokens: Full, Spatial, and Temporal where rows are long or meet a text.

One program computes BLOCK_M queries of one row, head and clip. It reads the keys in tiles of BLOCK_N, first those that
all rows share, then those of its own row, and keeps the running maximum and sum of the online softmax (Milakov and
Gimelshein 2018; Dao 2023, FlashAttention-2, Algorithm 1). Padding only shortens the two key ranges, so masks are
evaluated on the last tile alone.
"""

import triton
import triton.language as tl

from phys4d.kernels.attention import tiles


@triton.jit
def attend(
    acc_a, acc_b, largest, total, q_a, q_b, K, V, K_A, K_B, V_A, V_B, clip, head, position, token, there, visible,
    k_stride, v_stride, scale,
    D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
    MASKED: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr, ALIGN: tl.constexpr,
    bias=None, BIASED: tl.constexpr = False,
):  # fmt: skip
    """One step of the online softmax, over the keys at `token`; with MASKED those that are `there` and `visible`.

    clip, head, position: of the keys' first token, for TMA (see `tiles.stream`).
    bias: with BIASED [queries, keys], in powers of two, added to the scaled scores.
    """
    k_a, k_b = tiles.stream(
        K, K_A, K_B, clip, head, position, token * k_stride, there, D, DA, DB, MASKED, TMA, ALIGN
    )  # fmt: skip
    scores = tiles.dot_transposed(q_a, q_b, k_a, k_b, DB, PRECISION)
    if BIASED:
        scores = scores * scale + bias
        scale = 1.0
    if MASKED:
        scores = tl.where(visible, scores, float("-inf"))
    grown = tl.maximum(largest, tl.max(scores, 1) * scale)
    level = grown
    if MASKED or BIASED:  # a query that has seen nothing yet has no largest score to subtract
        level = tl.where(grown == float("-inf"), 0.0, grown)
    weights = tl.math.exp2(scores * scale - level[:, None])
    shrink = tl.math.exp2(largest - level)
    total = total * shrink + tl.sum(weights, 1)
    v_a, v_b = tiles.stream(
        V, V_A, V_B, clip, head, position, token * v_stride, there, D, DA, DB, MASKED, TMA, ALIGN
    )  # fmt: skip
    acc_a = tl.dot(weights.to(v_a.dtype), v_a, acc_a * shrink[:, None], input_precision=PRECISION)
    if DB > 0:
        acc_b = tl.dot(weights.to(v_b.dtype), v_b, acc_b * shrink[:, None], input_precision=PRECISION)
    return acc_a, acc_b, grown, total


@triton.jit
def finish(
    Out, Lse, acc_a, acc_b, largest, total, token, inside, o_token,
    D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Writes out and lse of the queries inside; 0 and -inf for those that saw nothing."""
    seen = total > 0
    total = tl.where(seen, total, 1.0)
    normal = (1 / total)[:, None]
    tiles.store_both(Out, acc_a * normal, acc_b * normal, token * o_token, inside, D, DA, DB, ALIGN)
    lse = tl.where(seen, (largest + tl.math.log2(total)) * 0.6931471805599453, float("-inf"))
    tl.store(Lse + token, lse, mask=inside)


@triton.jit
def over_keys(
    acc_a, acc_b, largest, total, q_a, q_b, query, query_first, query_last, K, V, K_A, K_B, V_A, V_B, clip, head,
    first, step, count, k_stride, v_stride, scale,
    BLOCK_N: tl.constexpr, D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
    CAUSAL: tl.constexpr, TMA: tl.constexpr, PRECISION: tl.constexpr, ALIGN: tl.constexpr,
    Mask=None, row=None, m_key=0, inside=None, BIASED: tl.constexpr = False,
):  # fmt: skip
    """The online softmax over `count` keys of a range, token first + i * step; masks on the last tile alone.

    Mask, row, m_key, inside: with BIASED, of the head, where the queries' rows begin, and which queries there are.
    """
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
        acc_a, acc_b, largest, total = attend(
            acc_a, acc_b, largest, total, q_a, q_b, K, V, K_A, K_B, V_A, V_B, clip, head, (first + begin).to(tl.int32),
            token, key < count, None, k_stride, v_stride, scale, D, DA, DB, False, TMA, PRECISION, ALIGN, bias, BIASED,
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
        acc_a, acc_b, largest, total = attend(
            acc_a, acc_b, largest, total, q_a, q_b, K, V, K_A, K_B, V_A, V_B, clip, head, 0,
            token, key < count, seen, k_stride, v_stride, scale, D, DA, DB, True, TMA, PRECISION, ALIGN, bias, BIASED,
        )  # fmt: skip
    return acc_a, acc_b, largest, total


@triton.jit
def place(heads, rows, own_first, own_row, own_step, own_count, BLOCK: tl.constexpr, AGAIN: tl.constexpr = False):
    """Of the program: clip, head, row, its first token's place in the row; of its tokens: places, positions, which are.

    Blocks of a row are neighbours, then heads, rows and clips.

    AGAIN: adds the program's place along the second axis of the grid, which is always 0 and which the compiler does not
    know. A second call computes the same anew; without it the compiler would keep the results of the first in registers
    while a loop runs.
    """
    program = tl.program_id(0)
    if AGAIN:
        program += tl.program_id(1)
    blocks = tl.cdiv(own_count, BLOCK)
    first = program % blocks * BLOCK
    head = ((program // blocks) % heads).to(tl.int64)
    row = ((program // blocks // heads) % rows).to(tl.int64)
    clip = (program // blocks // heads // rows).to(tl.int64)
    own = first + tl.arange(0, BLOCK)
    return clip, head, row, first, own, own_first + row * own_row + own.to(tl.int64) * own_step, own < own_count


@triton.jit
def visible(count, first, step, length):
    """How many tokens of a range stand before position `length`."""
    return tl.maximum(0, tl.minimum(count, (length - first + step - 1) // step)).to(tl.int32)


@triton.jit
def forward(
    Q, K, V, K_A, K_B, V_A, V_B, Out, Lse, Lengths, Mask,
    scale, heads, rows,
    own_first, own_row, own_step, own_count, shared_first, shared_count,
    other_first, other_row, other_step, other_count,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head, o_batch, o_token, o_head,
    lse_batch, lse_head, m_batch, m_head, m_query, m_key,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
    SHARED: tl.constexpr, CAUSAL: tl.constexpr, PADDED: tl.constexpr, TMA: tl.constexpr,
    PRECISION: tl.constexpr, ALIGN: tl.constexpr, GROUP: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """Out [B, S, heads, D] and Lse [B, heads, S] of the own queries; scale is times log2(e).

    GROUP heads share one of K and V; with BIASED, Mask [B, heads, S, S] hides keys or is added to the scores.
    """
    clip, head, row, query_first, query, token, inside = place(
        heads, rows, own_first, own_row, own_step, own_count, BLOCK_M
    )  # fmt: skip
    Q += (clip * q_batch + head * q_head) * ALIGN
    q_a, q_b = tiles.load_both(Q, token * q_token, inside, D, DA, DB, ALIGN)

    acc_a, acc_b = tiles.zeros_both(BLOCK_M, DA, DB)
    largest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
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
        acc_a, acc_b, largest, total = over_keys(
            acc_a, acc_b, largest, total, q_a, q_b, query, query_first, query_last, K, V, K_A, K_B, V_A, V_B,
            clip.to(tl.int32), kv_head.to(tl.int32), tl.zeros((), tl.int64) + shared_first, 1, shared_count,
            k_token, v_token, scale, BLOCK_N, D, DA, DB, False, TMA, PRECISION, ALIGN,
            Mask, mask_row, m_key, inside, BIASED,
        )  # fmt: skip
    acc_a, acc_b, largest, total = over_keys(
        acc_a, acc_b, largest, total, q_a, q_b, query, query_first, query_last, K, V, K_A, K_B, V_A, V_B,
        clip.to(tl.int32), kv_head.to(tl.int32), first, other_step, other_count,
        k_token, v_token, scale, BLOCK_N, D, DA, DB, CAUSAL, TMA, PRECISION, ALIGN,
        Mask, mask_row, m_key, inside, BIASED,
    )  # fmt: skip

    Out += (clip * o_batch + head * o_head) * ALIGN
    Lse += clip * lse_batch + head * lse_head
    finish(Out, Lse, acc_a, acc_b, largest, total, token, inside, o_token, D, DA, DB, ALIGN)
