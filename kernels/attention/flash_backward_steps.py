"""One tile of attention's backward pass: what keys give to dq, what queries give to dk and dv, and the end of a key."""

import triton
import triton.language as tl

from phys4d.kernels.attention import tiles


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
    bias=None, BIASED: tl.constexpr = False,
):  # fmt: skip
    """Adds what the keys at `token` give to dq; with MASKED those that are `there` and `visible`.

    bias: as `flash_forward.attend` has it.
    """
    k_a, k_b = tiles.stream(
        K, K_A, K_B, clip, head, position, token * k_stride, there, D, DA, DB, MASKED, TMA, ALIGN
    )  # fmt: skip
    v_a, v_b = tiles.stream(
        V, V_A, V_B, clip, head, position, token * v_stride, there, D, DA, DB, MASKED, TMA, ALIGN
    )  # fmt: skip
    scores = tiles.dot_transposed(q_a, q_b, k_a, k_b, DB, PRECISION) * scale
    if BIASED:
        scores += bias
    weights = tl.math.exp2(scores - lse[:, None])
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
    bias=None, BIASED: tl.constexpr = False,
):  # fmt: skip
    """Adds what the queries at `token` give to dk and dv: with PARTIAL those `there`, with MASKED the pairs `visible`.

    visible, bias: [keys, queries]. Queries that are not there have an infinite lse, hence no weight without a mask.
    """
    q_a, q_b = tiles.stream(
        Q, Q_A, Q_B, clip, head, position, token * q_stride, there, D, DA, DB, PARTIAL, TMA, ALIGN
    )  # fmt: skip
    do_a, do_b = tiles.stream(
        DOut, DO_A, DO_B, clip, head, position, token * do_stride, there, D, DA, DB, PARTIAL, TMA, ALIGN
    )  # fmt: skip
    lse = load_lse(Lse, token, there, PARTIAL)
    minus = tl.load(Delta + token, mask=there, other=0.0) if PARTIAL else tl.load(Delta + token)
    scores = tiles.dot_transposed(k_a, k_b, q_a, q_b, DB, PRECISION) * scale
    if BIASED:
        scores += bias
    weights = tl.math.exp2(scores - lse[None, :])
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
