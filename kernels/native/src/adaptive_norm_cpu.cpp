// Token by token: memory is passed over once, and all between is float32 in the innermost cache.
#include "adaptive_norm.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>

#include "token_modulation.h"

namespace phys4d {
namespace {

// value: x + gate * y, rounded to the dtype of x, which is also kept.
template <typename X, typename Y>
ALWAYS void add_through_gate(const X* x, const Y* y, const float* gate, int64_t n, X* __restrict stream,
                             float* __restrict value) {
  for (int64_t i = 0; i < n; ++i) {
    const X kept = narrowed<X>(widened(x[i]) + gate[i] * widened(y[i]));
    stream[i] = kept;
    value[i] = widened(kept);
  }
}

template <typename X>
ALWAYS void modulate(const float* value, float mean, float rate, const float* factor, const float* offset, int64_t n,
                     X* __restrict out) {
  for (int64_t i = 0; i < n; ++i) out[i] = narrowed<X>((value[i] - mean) * rate * factor[i] + offset[i]);
}

template <typename X>
ALWAYS void forward_tokens(const NormForward& in, int64_t begin, int64_t end, X* stream, X* out, float* stats) {
  const int64_t n = in.sizes.width, count = in.sizes.count;
  Modulation by;
  alignas(64) float value[kRoom];
  for (int64_t token = begin; token < end; ++token) {
    const int64_t clip = token / count, place = token % count;
    const int64_t row = in.of.index == nullptr ? token / in.of.run : in.of.index[token];
    if (row != by.row) {
      if (in.y.data != nullptr) take_gate(in.gate, row, n, by);
      if (out != nullptr) take_factor(in.scale, in.weight, row, n, by, &in.bias, &in.shift);
      by.row = row;
    }
    Sum sum;
    for (int64_t at = 0; at < n; at += kChunk) {
      const int64_t some = std::min(kChunk, n - at);
      const X* x = in.x.at<X>(clip, place) + at;
      if (in.y.data == nullptr) {
        for (int64_t i = 0; i < some; ++i) value[at + i] = widened(x[i]);
      }
      with_row(in.y, clip, place, [&](const auto* y) ALWAYS_INLINE {
        add_through_gate(x, y + at, by.gate + at, some, stream + token * n + at, value + at);
      });
      add_to(sum, value + at, some);
    }
    if (out == nullptr) continue;
    float mean = 0, rate = 1;
    if (in.norm != TokenNorm::kNone) {
      if (in.norm == TokenNorm::kLayer) mean = sum.total() / float(n);
      rate = 1 / std::sqrt(sum_of_squares(value, mean, n) / float(n) + in.epsilon);
      stats[2 * token] = mean;
      stats[2 * token + 1] = rate;
    }
    for (int64_t at = 0; at < n; at += kChunk) {
      const int64_t some = std::min(kChunk, n - at);
      modulate(value + at, mean, rate, by.factor + at, by.offset + at, some, out + token * n + at);
    }
  }
}

INSTRUCTION_SETS void tokens_of(const NormForward& in, int64_t begin, int64_t end, float* stream, float* out,
                                float* stats) {
  forward_tokens(in, begin, end, stream, out, stats);
}
INSTRUCTION_SETS void tokens_of(const NormForward& in, int64_t begin, int64_t end, BFloat16* stream, BFloat16* out,
                                float* stats) {
  forward_tokens(in, begin, end, stream, out, stats);
}

}  // namespace

void adaptive_norm_cpu(const NormForward& in, void* stream, void* out, float* stats) {
  const int64_t grain = 1 + kGrain / in.sizes.width;
  torch::stable::parallel_for(0, in.sizes.total, grain, [&](int64_t begin, int64_t end) {
    if (in.x.half) {
      tokens_of(in, begin, end, static_cast<BFloat16*>(stream), static_cast<BFloat16*>(out), stats);
    } else {
      tokens_of(in, begin, end, static_cast<float*>(stream), static_cast<float*>(out), stats);
    }
  });
}

}  // namespace phys4d
