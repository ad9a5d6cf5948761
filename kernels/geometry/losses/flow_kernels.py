"""Triton kernels of the flow loss: each program works on BLOCK pixels of one clip, all their channels.

Forward writes two numbers per program (sum, weights), which the host adds up in a fixed order; backward computes the
loss again and writes every element once. The floor is the time to move 21 bytes per pixel for two channels of float32
with weights (29 with confidence), and 8 (16) more in backward.
"""

import triton
import triton.language as tl

L1, CHARBONNIER, EPE, LAPLACE = range(4)  # as in `flow_reference.KINDS`
_L1 = tl.constexpr(L1)
_CHARBONNIER = tl.constexpr(CHARBONNIER)
_EPE = tl.constexpr(EPE)
_LAPLACE = tl.constexpr(LAPLACE)


@triton.jit
def _weights(Valid, Weight, clip, pixel, real, valid_clip, weight_clip, dtype: tl.constexpr, HAS_WEIGHT: tl.constexpr):
    valid = tl.load(Valid + clip * valid_clip + pixel, mask=real, other=0) != 0
    weight = valid.to(dtype)
    if HAS_WEIGHT:
        weight = tl.load(Weight + clip * weight_clip + pixel, mask=real, other=0.0)
        weight = tl.where(valid, weight, 0.0)
    return valid, weight


@triton.jit
def _gap(Predicted, Target, clip, channel, pixel, real, valid, p_clip, p_channel, t_clip, t_channel):
    """Predicted minus target in one channel, 0 outside the mask."""
    p = tl.load(Predicted + clip * p_clip + channel * tl.cast(p_channel, tl.int64) + pixel, mask=real, other=0.0)
    t = tl.load(Target + clip * t_clip + channel * tl.cast(t_channel, tl.int64) + pixel, mask=real, other=0.0)
    return tl.where(valid, p - t, 0.0)


@triton.jit
def _root(gap):
    """sqrt(gap^2 + 1e-6), with the constant in the dtype of gap: a plain literal would be float32."""
    return tl.sqrt(gap * gap + tl.full(gap.shape, 1e-6, gap.dtype))


@triton.jit
def _sign(gap):
    return tl.where(gap > 0, 1.0, tl.where(gap < 0, -1.0, gap))


@triton.jit
def _mixture(Confidence, clip, pixel, real, valid, c_clip, c_channel):
    """The terms of the mixture's likelihood for each pixel: ordinary, doubtful, inverse, and the first one's share.

    For a channel with absolute error d the log likelihoods of the two distributions, each times its share, are
    ordinary - d and doubtful - d * inverse, up to the constant ln 2.
    """
    place = Confidence + clip * c_clip + pixel
    logit = tl.where(valid, tl.load(place, mask=real, other=0.0), 0.0)
    log_scale = tl.where(valid, tl.load(place + c_channel, mask=real, other=0.0), 0.0)
    small = tl.exp(-tl.abs(logit))
    tail = tl.log(1 + small)
    ordinary = tl.where(logit < 0, logit, 0.0) - tail
    doubtful = tl.where(logit > 0, -logit, 0.0) - tail - log_scale
    return ordinary, doubtful, tl.exp(-log_scale), tl.where(logit < 0, small, 1.0) / (1 + small)


@triton.jit
def forward_kernel(
    Predicted, Target, Valid, Weight, Confidence, Partial, pixels,
    p_clip, p_channel, t_clip, t_channel, valid_clip, weight_clip, c_clip, c_channel,
    KIND: tl.constexpr, CHANNELS: tl.constexpr, HAS_WEIGHT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes Partial float64 [clips, blocks, 2]."""
    clip = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = pixel < pixels
    valid, weight = _weights(
        Valid, Weight, clip, pixel, real, valid_clip, weight_clip, Predicted.dtype.element_ty, HAS_WEIGHT
    )
    error = tl.zeros((BLOCK,), Predicted.dtype.element_ty)
    if KIND == _LAPLACE:
        ordinary, doubtful, inverse, _ = _mixture(Confidence, clip, pixel, real, valid, c_clip, c_channel)
    for channel in tl.static_range(CHANNELS):
        gap = _gap(Predicted, Target, clip, channel, pixel, real, valid, p_clip, p_channel, t_clip, t_channel)
        if KIND == _L1:
            error += tl.abs(gap)
        elif KIND == _CHARBONNIER:
            error += _root(gap) - tl.full(gap.shape, 1e-3, gap.dtype)
        elif KIND == _EPE:
            error += gap * gap
        else:
            a, b = ordinary - tl.abs(gap), doubtful - tl.abs(gap) * inverse
            both = tl.where(a < b, b, a) + tl.log(1 + tl.exp(-tl.abs(a - b)))
            error += tl.full(gap.shape, 0.6931471805599453, gap.dtype) - both
    if KIND == _EPE:
        error = tl.sqrt(error)
    exact = weight.to(tl.float64)
    Partial += (clip * tl.num_programs(0) + tl.program_id(0)) * 2
    tl.store(Partial, tl.sum(error.to(tl.float64) * exact, axis=0))
    tl.store(Partial + 1, tl.sum(exact, axis=0))


@triton.jit
def backward_kernel(
    Predicted, Target, Valid, Weight, Confidence, Scale, DPredicted, DConfidence, pixels,
    p_clip, p_channel, t_clip, t_channel, valid_clip, weight_clip, c_clip, c_channel,
    KIND: tl.constexpr, CHANNELS: tl.constexpr, HAS_WEIGHT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Writes DPredicted [clips, CHANNELS, pixels] and, for laplace, DConfidence [clips, 2, pixels]."""
    clip = tl.program_id(1).to(tl.int64)
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    real = pixel < pixels
    valid, weight = _weights(
        Valid, Weight, clip, pixel, real, valid_clip, weight_clip, Predicted.dtype.element_ty, HAS_WEIGHT
    )
    weight = weight * tl.load(Scale + clip).to(weight.dtype)
    if KIND == _EPE:
        square = tl.zeros((BLOCK,), weight.dtype)
        for channel in tl.static_range(CHANNELS):
            gap = _gap(Predicted, Target, clip, channel, pixel, real, valid, p_clip, p_channel, t_clip, t_channel)
            square += gap * gap
        # The length has no derivative where the error is 0.
        weight = tl.where(square == 0, 0.0, weight / tl.sqrt(tl.where(square == 0, 1.0, square)))
    if KIND == _LAPLACE:
        ordinary, doubtful, inverse, share = _mixture(Confidence, clip, pixel, real, valid, c_clip, c_channel)
        d_share = tl.zeros((BLOCK,), weight.dtype)
        d_scale = tl.zeros((BLOCK,), weight.dtype)
    for channel in tl.static_range(CHANNELS):
        gap = _gap(Predicted, Target, clip, channel, pixel, real, valid, p_clip, p_channel, t_clip, t_channel)
        if KIND == _L1:
            slope = weight * _sign(gap)
        elif KIND == _CHARBONNIER:
            slope = weight * (gap / _root(gap))
        elif KIND == _EPE:
            slope = weight * gap
        else:
            lead = (ordinary - tl.abs(gap)) - (doubtful - tl.abs(gap) * inverse)
            small = tl.exp(-tl.abs(lead))
            first = tl.where(lead < 0, small, 1.0) / (1 + small)
            second = tl.where(lead < 0, 1.0, small) / (1 + small)
            finite = tl.where(second == 0, 0.0, inverse)  # which may be infinite
            slope = weight * _sign(gap) * (first + second * finite)
            d_share += weight * (share - first)
            d_scale += weight * (second * (1 - tl.abs(gap) * finite))
        tl.store(DPredicted + (clip * CHANNELS + channel) * pixels + pixel, slope, mask=real)
    if KIND == _LAPLACE:
        place = DConfidence + 2 * clip * pixels + pixel
        tl.store(place, d_share, mask=real)
        tl.store(place + pixels, d_scale, mask=real)
