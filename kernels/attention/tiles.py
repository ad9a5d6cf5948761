"""Tiles of tokens, inside Triton kernels, for head dimensions that need not be powers of two.

D channels are held as DA, the largest power of two up to D, and DB for the rest: the next power of two, at least 16, or
0 where nothing is left. 72 = 64 + 16 with eight zero channels, where one tile would be 128 wide.
"""

import triton
import triton.language as tl


def split(dim: int, widest: int = 256) -> tuple[int, int]:
    """(DA, DB) of a head dimension; DA is at most `widest`, a power of two."""
    first = max(16, min(widest, 1 << (dim.bit_length() - 1)))
    rest = max(0, dim - first)
    return first, max(16, triton.next_power_of_2(rest)) if rest else 0


@triton.jit
def load(
    X, start, inside,
    D: tl.constexpr, OFFSET: tl.constexpr, WIDTH: tl.constexpr, MASKED: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Channels OFFSET to OFFSET + WIDTH of the tokens that start at X + start * ALIGN (int64 [N]): [N, WIDTH].

    0 outside and beyond D. Strides come in units of ALIGN numbers: that shows the compiler how wide it may read.
    """
    channel = OFFSET + tl.arange(0, WIDTH)
    pointers = X + (start * ALIGN)[:, None] + channel[None, :]
    if OFFSET + WIDTH <= D:
        if MASKED:
            return tl.load(pointers, mask=inside[:, None], other=0.0)
        else:
            return tl.load(pointers)
    else:
        if MASKED:
            return tl.load(pointers, mask=inside[:, None] & (channel < D)[None, :], other=0.0)
        else:
            return tl.load(pointers, mask=(channel < D)[None, :], other=0.0)


@triton.jit
def load_both(X, start, inside, D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr, ALIGN: tl.constexpr):
    """Both parts of the tokens that are inside; the second is the first again where DB is 0."""
    a = load(X, start, inside, D, 0, DA, True, ALIGN)
    b = a
    if DB > 0:
        b = load(X, start, inside, D, DA, DB, True, ALIGN)
    return a, b


@triton.jit
def zeros_both(N: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr):
    """Two accumulators float32 [N, DA] and [N, DB]; the second is the first again where DB is 0."""
    a = tl.zeros((N, DA), tl.float32)
    b = a
    if DB > 0:
        b = tl.zeros((N, DB), tl.float32)
    return a, b


@triton.jit
def stream(
    X, X_A, X_B, clip, head, position, start, there,
    D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr,
    MASKED: tl.constexpr, TMA: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Both parts of a tile that a loop runs over; the second is the first again where DB is 0.

    With TMA, tiles without a mask come through the descriptors X_A, X_B of [B, S, heads, D], which need clip, head and
    the position of the first token; all others through pointers, as `load` has them.
    """
    if TMA and not MASKED:
        a = tl.reshape(X_A.load([clip, position, head, 0]), (start.shape[0], DA))
        b = a
        if DB > 0:
            b = tl.reshape(X_B.load([clip, position, head, DA]), (start.shape[0], DB))
    else:
        a = load(X, start, there, D, 0, DA, MASKED, ALIGN)
        b = a
        if DB > 0:
            b = load(X, start, there, D, DA, DB, MASKED, ALIGN)
    return a, b


@triton.jit
def store(
    X, value, start, inside, D: tl.constexpr, OFFSET: tl.constexpr, WIDTH: tl.constexpr, ALIGN: tl.constexpr
):  # fmt: skip
    """Writes value [N, WIDTH] to channels OFFSET to OFFSET + WIDTH of the tokens inside, in X's dtype."""
    channel = OFFSET + tl.arange(0, WIDTH)
    pointers = X + (start * ALIGN)[:, None] + channel[None, :]
    value = value.to(X.dtype.element_ty)
    if OFFSET + WIDTH <= D:
        tl.store(pointers, value, mask=inside[:, None])
    else:
        tl.store(pointers, value, mask=inside[:, None] & (channel < D)[None, :])


@triton.jit
def store_both(
    X, a, b, start, inside, D: tl.constexpr, DA: tl.constexpr, DB: tl.constexpr, ALIGN: tl.constexpr
):  # fmt: skip
    """Writes both parts of the tokens inside, in X's dtype."""
    store(X, a, start, inside, D, 0, DA, ALIGN)
    if DB > 0:
        store(X, b, start, inside, D, DA, DB, ALIGN)


@triton.jit
def dot_transposed(x_a, x_b, y_a, y_b, DB: tl.constexpr, PRECISION: tl.constexpr):
    """x y^T of two split tiles: [M, D] and [N, D] to float32 [M, N]."""
    product = tl.dot(x_a, tl.trans(y_a), input_precision=PRECISION)
    if DB > 0:
        product = tl.dot(x_b, tl.trans(y_b), product, input_precision=PRECISION)
    return product


@triton.jit
def bias(Mask, place, there):
    """What a mask adds to scores, in powers of two, at places that are there: 0 or -inf where it is one of bytes."""
    value = tl.load(Mask + place, mask=there, other=0)
    if Mask.dtype.element_ty == tl.uint8:
        return tl.where(value != 0, 0.0, float("-inf"))
    else:
        return value.to(tl.float32) * 1.4426950408889634
