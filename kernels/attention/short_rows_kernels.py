"""Attention over short rows, whole rows in registers: one read of q, k, v and one write of out.

A row is a set of tokens that see each other and no others: one place of the frame at all times, one frame, or a short
sequence, of one head and clip. Its tokens stand `step` apart and are read where they stand. A program takes BLOCK /
PAD neighbouring rows (PAD: their length rounded up to a power of two) as one tile of BLOCK tokens, places in the row
outside and rows inside; heads are neighbours first, so that a tile reads contiguous memory at every place. The product
of a tile with itself is computed whole and all but the rows' own blocks is masked: a few times more work than needed,
for tensor cores that wait for memory anyway. Backward recomputes the weights from q and k, so it needs neither out nor
lse: seven tensors pass. Norm and rotation of q and k happen in the registers of both.
"""

import triton
import triton.language as tl

from phys4d.kernels.attention import norm_rope_tiles as norm_rope
from phys4d.kernels.attention import tiles

_NO_NORM = tl.constexpr(norm_rope.NO_NORM)


@triton.jit
def _place(
    heads, others, step, other_step, rows, count, BLOCK: tl.constexpr, PAD: tl.constexpr, AGAIN: tl.constexpr = False
):  # fmt: skip
    """Of every token of the tile: clip, head, position in the sequence (int64) and whether it is there at all.

    Rows of a clip and head: `others`, which begin `other_step` apart; tokens of a row: `count`, `step` apart.
    AGAIN: see `flash_forward.place`.
    """
    token = tl.arange(0, BLOCK)
    program = tl.program_id(0)
    if AGAIN:
        program += tl.program_id(1)
    row = program * (BLOCK // PAD) + token % (BLOCK // PAD)
    place = token // (BLOCK // PAD)
    inside = (row < rows) & (place < count)
    head = (row % heads).to(tl.int64)
    clip = (row // heads // others).to(tl.int64)
    return clip, head, place.to(tl.int64) * step + (row // heads) % others * other_step, inside


@triton.jit
def _weights(
    q_a, q_b, k_a, k_b, scale, seen, BLOCK: tl.constexpr, PAD: tl.constexpr, DB: tl.constexpr,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """exp2(scores - largest) float32 [BLOCK, BLOCK], 0 where not visible; the largest score and the sum per row."""
    query = tl.arange(0, BLOCK)[:, None]
    key = tl.arange(0, BLOCK)[None, :]
    visible = seen[None, :] & (query % (BLOCK // PAD) == key % (BLOCK // PAD))
    if CAUSAL:
        visible = visible & (key <= query)
    scores = tl.where(visible, tiles.dot_transposed(q_a, q_b, k_a, k_b, DB, PRECISION) * scale, float("-inf"))
    largest = tl.max(scores, 1)
    weights = tl.math.exp2(scores - tl.where(largest == float("-inf"), 0.0, largest)[:, None])
    return weights, largest, tl.sum(weights, 1)


@triton.jit
def _angles(
    Time, Height, Width, token, cells, width, tokens,
    TIME: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
):  # fmt: skip
    """Cosine and sine [BLOCK, DA / 2] of the tile's tokens for the pairs of the first part, then of the second."""
    token = tl.minimum(token, tokens - 1).to(tl.int32)  # those of the tile that are not there stay in the tables
    time, row, column = token // cells, token % cells // width, token % width
    cos_a, sin_a = norm_rope.angles(Time, Height, Width, time, row, column, TIME, HEIGHT, WIDTH, 0, DA)
    cos_b, sin_b = cos_a, sin_a
    if DB > 0:
        cos_b, sin_b = norm_rope.angles(Time, Height, Width, time, row, column, TIME, HEIGHT, WIDTH, DA, DB)
    return cos_a, sin_a, cos_b, sin_b


@triton.jit
def forward(
    Q, K, V, Out, Lse, Lengths, QWeight, KWeight, QBias, KBias, Time, Height, Width,
    scale, epsilon, heads, others, step, other_step, rows, count, cells, width, tokens,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head, o_batch, o_token, o_head,
    lse_batch, lse_head,
    BLOCK: tl.constexpr, PAD: tl.constexpr, D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
    CAUSAL: tl.constexpr, PADDED: tl.constexpr, WITH_LSE: tl.constexpr, PRECISION: tl.constexpr, ALIGN: tl.constexpr,
    NORM: tl.constexpr, BIAS: tl.constexpr, ROPE: tl.constexpr, HALF: tl.constexpr,
    TIME: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Out [B, S, heads, D] and, with WITH_LSE, Lse [B, heads, S]; scale is times log2(e)."""
    clip, head, token, inside = _place(heads, others, step, other_step, rows, count, BLOCK, PAD)
    seen = inside
    if PADDED:
        seen = inside & (token < tl.load(Lengths + clip, mask=inside, other=0))
    q = clip * q_batch + token * q_token + head * q_head
    k = clip * k_batch + token * k_token + head * k_head
    v = clip * v_batch + token * v_token + head * v_head
    q_a, q_b = tiles.load_both(Q, q, inside, D, DA, DB, ALIGN)
    k_a, k_b = tiles.load_both(K, k, seen, D, DA, DB, ALIGN)
    v_a = tiles.load(V, v, seen, D, 0, DA, True, ALIGN)
    cos_a, sin_a, cos_b, sin_b = scale, scale, scale, scale
    if ROPE:
        cos_a, sin_a, cos_b, sin_b = _angles(
            Time, Height, Width, token, cells, width, tokens, TIME, HEIGHT, WIDTH, DA, DB
        )  # fmt: skip
    if ROPE or NORM != _NO_NORM:
        q_a, q_b, _, _ = norm_rope.prepared(
            q_a, q_b, inside, QWeight, QBias, epsilon, cos_a, sin_a, cos_b, sin_b, D, DA, DB, NORM, BIAS, ROPE, HALF
        )
        k_a, k_b, _, _ = norm_rope.prepared(
            k_a, k_b, seen, KWeight, KBias, epsilon, cos_a, sin_a, cos_b, sin_b, D, DA, DB, NORM, BIAS, ROPE, HALF
        )
    weights, largest, total = _weights(q_a, q_b, k_a, k_b, scale, seen, BLOCK, PAD, DB, CAUSAL, PRECISION)
    any_seen = total > 0
    normal = (1 / tl.where(any_seen, total, 1.0))[:, None]
    weights = weights.to(v_a.dtype)
    out = clip * o_batch + token * o_token + head * o_head
    tiles.store(Out, tl.dot(weights, v_a, input_precision=PRECISION) * normal, out, inside, D, 0, DA, ALIGN)
    if DB > 0:  # read late: a fifth program fits on an SM
        v_b = tiles.load(V, v, seen, D, DA, DB, True, ALIGN)
        tiles.store(Out, tl.dot(weights, v_b, input_precision=PRECISION) * normal, out, inside, D, DA, DB, ALIGN)
    if WITH_LSE:
        lse = (largest + tl.math.log2(tl.where(any_seen, total, 1.0))) * 0.6931471805599453
        tl.store(Lse + clip * lse_batch + head * lse_head + token, lse, mask=inside)


@triton.jit
def backward(
    Q, K, V, DOut, DLse, DQ, DK, DV, DWeights, Lengths, QWeight, KWeight, QBias, KBias, Time, Height, Width,
    scale, epsilon, heads, others, step, other_step, rows, count, cells, width, tokens,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head, do_batch, do_token, do_head,
    dlse_batch, dlse_head, dlse_token,
    dq_batch, dq_token, dq_head, dk_batch, dk_token, dk_head, dv_batch, dv_token, dv_head,
    BLOCK: tl.constexpr, PAD: tl.constexpr, D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
    CAUSAL: tl.constexpr, PADDED: tl.constexpr, WITH_LSE: tl.constexpr, PRECISION: tl.constexpr, ALIGN: tl.constexpr,
    NORM: tl.constexpr, BIAS: tl.constexpr, ROPE: tl.constexpr, HALF: tl.constexpr,
    TIME: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, WEIGHT_GRADIENT: tl.constexpr,
):  # fmt: skip
    """DQ, DK, DV [B, S, heads, D]; DLse [B, heads, S] is read with WITH_LSE alone.

    With WEIGHT_GRADIENT also DWeights float32 [programs, 2 or 4, D]: each program's share of the gradients of the
    weights of queries and keys and of their biases.
    """
    clip, head, token, inside = _place(heads, others, step, other_step, rows, count, BLOCK, PAD)
    seen = inside
    if PADDED:
        seen = inside & (token < tl.load(Lengths + clip, mask=inside, other=0))
    q = clip * q_batch + token * q_token + head * q_head
    k = clip * k_batch + token * k_token + head * k_head
    v = clip * v_batch + token * v_token + head * v_head
    do = clip * do_batch + token * do_token + head * do_head
    q_a, q_b = tiles.load_both(Q, q, inside, D, DA, DB, ALIGN)
    k_a, k_b = tiles.load_both(K, k, seen, D, DA, DB, ALIGN)
    v_a, v_b = tiles.load_both(V, v, seen, D, DA, DB, ALIGN)
    do_a, do_b = tiles.load_both(DOut, do, inside, D, DA, DB, ALIGN)
    cos_a, sin_a, cos_b, sin_b = scale, scale, scale, scale
    q_mean, q_factor, k_mean, k_factor = scale, scale, scale, scale
    if ROPE:
        cos_a, sin_a, cos_b, sin_b = _angles(
            Time, Height, Width, token, cells, width, tokens, TIME, HEIGHT, WIDTH, DA, DB
        )  # fmt: skip
    if ROPE or NORM != _NO_NORM:
        q_a, q_b, q_mean, q_factor = norm_rope.prepared(
            q_a, q_b, inside, QWeight, QBias, epsilon, cos_a, sin_a, cos_b, sin_b, D, DA, DB, NORM, BIAS, ROPE, HALF
        )
        k_a, k_b, k_mean, k_factor = norm_rope.prepared(
            k_a, k_b, seen, KWeight, KBias, epsilon, cos_a, sin_a, cos_b, sin_b, D, DA, DB, NORM, BIAS, ROPE, HALF
        )
    weights, _, total = _weights(q_a, q_b, k_a, k_b, scale, seen, BLOCK, PAD, DB, CAUSAL, PRECISION)
    weights = weights * (1 / tl.where(total > 0, total, 1.0))[:, None]

    dv = clip * dv_batch + token * dv_token + head * dv_head
    turned = tl.trans(weights.to(do_a.dtype))
    tiles.store(DV, tl.dot(turned, do_a, input_precision=PRECISION), dv, inside, D, 0, DA, ALIGN)
    if DB > 0:
        tiles.store(DV, tl.dot(turned, do_b, input_precision=PRECISION), dv, inside, D, DA, DB, ALIGN)

    dweights = tiles.dot_transposed(do_a, do_b, v_a, v_b, DB, PRECISION)
    minus = tl.sum(weights * dweights, 1)
    if WITH_LSE:
        dlse = DLse + clip * dlse_batch + head * dlse_head + token * dlse_token
        minus -= tl.load(dlse, mask=inside, other=0.0)
    dscores = (weights * (dweights - minus[:, None])).to(k_a.dtype)
    natural = scale * 0.6931471805599453
    if NORM != _NO_NORM:  # q and k are read again, where they stand is computed again
        clip, head, token, inside = _place(heads, others, step, other_step, rows, count, BLOCK, PAD, True)
        seen = inside
        if PADDED:
            seen = inside & (token < tl.load(Lengths + clip, mask=inside, other=0))
        q = clip * q_batch + token * q_token + head * q_head
        k = clip * k_batch + token * k_token + head * k_head
    dq = clip * dq_batch + token * dq_token + head * dq_head
    dk = clip * dk_batch + token * dk_token + head * dk_head
    dq_a = tl.dot(dscores, k_a, input_precision=PRECISION) * natural
    dq_b = dq_a
    if DB > 0:
        dq_b = tl.dot(dscores, k_b, input_precision=PRECISION) * natural
    if ROPE:  # read again: kept, they would take a third of the registers
        cos_a, sin_a, cos_b, sin_b = _angles(
            Time, Height, Width, token, cells, width, tokens, TIME, HEIGHT, WIDTH, DA, DB
        )  # fmt: skip
    sums = DWeights + tl.program_id(0).to(tl.int64) * ((4 if BIAS else 2) * D)
    norm_rope.finished(
        Q, DQ, sums, dq_a, dq_b, q, dq, inside, inside, QWeight, q_mean, q_factor, cos_a, sin_a, cos_b, sin_b,
        2, D, DA, DB, NORM, BIAS, ROPE, HALF, WEIGHT_GRADIENT, ALIGN,
    )  # fmt: skip
    if ROPE:  # read again: kept, they would take a third of the registers
        cos_a, sin_a, cos_b, sin_b = _angles(
            Time, Height, Width, token, cells, width, tokens, TIME, HEIGHT, WIDTH, DA, DB
        )  # fmt: skip
    turned = tl.trans(dscores)
    dk_a = tl.dot(turned, q_a, input_precision=PRECISION) * natural
    dk_b = dk_a
    if DB > 0:
        dk_b = tl.dot(turned, q_b, input_precision=PRECISION) * natural
    norm_rope.finished(
        K, DK, sums + D, dk_a, dk_b, k, dk, seen, inside, KWeight, k_mean, k_factor, cos_a, sin_a, cos_b, sin_b,
        2, D, DA, DB, NORM, BIAS, ROPE, HALF, WEIGHT_GRADIENT, ALIGN,
    )  # fmt: skip
