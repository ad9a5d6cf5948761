"""Attention with scores from int8 products, forward alone: sums of keys, quantisation, and the attention itself.

Quantised tokens are int8 [B, heads, blocks * BLOCK, D] with a float32 scale for each block, 0 beyond the last token.
The products of queries and keys are exact sums of integers; those of weights and values are in the values' dtype, with
float32 sums. Each element of a result is written by one program, in a fixed order.
"""

import triton
import triton.language as tl

from phys4d.kernels.attention import tiles


@triton.jit
def place(heads, blocks):
    """Clip, head, block of the program, and the number of that block among all. Blocks of a head are neighbours."""
    program = tl.program_id(0)
    head = ((program // blocks) % heads).to(tl.int64)
    clip = (program // blocks // heads).to(tl.int64)
    return clip, head, program % blocks, program.to(tl.int64)


@triton.jit
def tokens_of(block, tokens, Lengths, clip, BLOCK: tl.constexpr, PADDED: tl.constexpr):
    """Positions of a block's tokens, and which of them there are before the clip's length."""
    count = tokens.to(tl.int64)
    if PADDED:
        count = tl.minimum(count, tl.load(Lengths + clip).to(tl.int64))
    position = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return position, position < count


@triton.jit
def sums(
    X, Sums, Lengths, tokens, heads, blocks, x_batch, x_token, x_head,
    BLOCK: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Sums float32 [B, heads, blocks, D] of the tokens of each block of X [B, S, heads, D]."""
    clip, head, block, number = place(heads, blocks)
    position, there = tokens_of(block, tokens, Lengths, clip, BLOCK, PADDED)
    X += (clip * x_batch + head * x_head) * ALIGN
    x = tiles.load(X, position * x_token, there, D, 0, D, True, ALIGN)
    tl.store(Sums + number * D + tl.arange(0, D), tl.sum(x.to(tl.float32), 0))


@triton.jit
def quantise(
    X, Mean, Out, Scales, Lengths, tokens, heads, blocks, x_batch, x_token, x_head,
    BLOCK: tl.constexpr, D: tl.constexpr, CENTRED: tl.constexpr, PADDED: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Out int8 and Scales [B, heads, blocks] of X [B, S, heads, D]; with CENTRED of X - Mean [B, heads, D]."""
    clip, head, block, number = place(heads, blocks)
    position, there = tokens_of(block, tokens, Lengths, clip, BLOCK, PADDED)
    X += (clip * x_batch + head * x_head) * ALIGN
    channel = tl.arange(0, D)
    x = tiles.load(X, position * x_token, there, D, 0, D, True, ALIGN).to(tl.float32)
    if CENTRED:
        mean = tl.load(Mean + (clip * heads + head) * D + channel)
        x = tl.where(there[:, None], x - mean[None, :], 0.0)
    finite = tl.abs(x) < float("inf")  # false for NaN too
    broken = tl.max(tl.where(finite, 0, 1)) > 0
    x = tl.where(broken, 0.0, x)
    peak = tl.max(tl.abs(x))
    scale = tl.where(peak > 0, peak / 127, 1.0)
    rounded = tl.floor(x / scale + 0.5).to(tl.int8)
    row = number * BLOCK + tl.arange(0, BLOCK)
    tl.store(Out + row[:, None] * D + channel[None, :], rounded)
    tl.store(Scales + number, tl.where(broken, float("nan"), scale))


@triton.jit
def attend(
    acc, largest, total, q, factor, K, K_Scales, V, begin, count, v_token,
    BLOCK_N: tl.constexpr, D: tl.constexpr, MASKED: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """One step of the online softmax, over the block of keys at `begin`; with MASKED those before `count`."""
    key = begin + tl.arange(0, BLOCK_N)
    k = tl.load(K + key.to(tl.int64)[:, None] * D + tl.arange(0, D)[None, :])
    scores = tl.dot(q, tl.trans(k)).to(tl.float32) * (factor * tl.load(K_Scales + begin // BLOCK_N))
    if MASKED:
        scores = tl.where((key < count)[None, :], scores, float("-inf"))
    grown = tl.maximum(largest, tl.max(scores, 1))
    weights = tl.math.exp2(scores - grown[:, None])
    shrink = tl.math.exp2(largest - grown)
    total = total * shrink + tl.sum(weights, 1)
    v = tiles.load(V, key.to(tl.int64) * v_token, key < count, D, 0, D, MASKED, ALIGN)
    acc = tl.dot(weights.to(v.dtype), v, acc * shrink[:, None])
    return acc, grown, total


@triton.jit
def forward(
    Q, Q_Scales, K, K_Scales, V, Out, Lengths, scale, heads, queries, keys, query_blocks, key_blocks,
    v_batch, v_token, v_head, o_batch, o_token, o_head,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, D: tl.constexpr, PADDED: tl.constexpr, ALIGN: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """Out [B, S_q, heads, D] of one block of queries; scale is times log2(e), GROUP heads share one of K and V."""
    clip, head, block, number = place(heads, query_blocks)
    kv_head = head // GROUP
    channel = tl.arange(0, D)
    query = block * BLOCK_M + tl.arange(0, BLOCK_M)
    q = tl.load(Q + (number * BLOCK_M + tl.arange(0, BLOCK_M))[:, None] * D + channel[None, :])
    factor = tl.load(Q_Scales + number) * scale
    row = (clip * (heads // GROUP) + kv_head) * key_blocks
    K += row * BLOCK_N * D
    K_Scales += row
    V += (clip * v_batch + kv_head * v_head) * ALIGN
    count = keys
    if PADDED:
        count = tl.maximum(0, tl.minimum(keys, tl.load(Lengths + clip))).to(tl.int32)
    acc = tl.zeros((BLOCK_M, D), tl.float32)
    largest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    whole = count // BLOCK_N * BLOCK_N
    for begin in tl.range(0, whole, BLOCK_N):
        acc, largest, total = attend(
            acc, largest, total, q, factor, K, K_Scales, V, begin, count, v_token, BLOCK_N, D, False, ALIGN
        )
    for begin in tl.range(whole, count, BLOCK_N, num_stages=1):
        acc, largest, total = attend(
            acc, largest, total, q, factor, K, K_Scales, V, begin, count, v_token, BLOCK_N, D, True, ALIGN
        )
    normal = 1 / tl.where(total > 0, total, 1.0)  # no key seen: 0; numbers that are not finite keep acc's NaN
    Out += (clip * o_batch + head * o_head) * ALIGN
    tiles.store(Out, acc * normal[:, None], query.to(tl.int64) * o_token, query < queries, D, 0, D, ALIGN)
