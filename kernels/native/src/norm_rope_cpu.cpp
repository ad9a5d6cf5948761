// Token by token: memory is passed over once, and all between is float32 in the innermost cache.
#include "norm_rope.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>

namespace phys4d {
namespace {

constexpr int64_t kRoom = kWidestHeads + 80;  // not a power of two: rooms would share the same few lines of a cache
constexpr int64_t kGrain = 1 << 15;           // numbers that are worth a thread

ALWAYS int64_t width(const NormRope& how) { return how.heads * how.dim; }

template <typename X>
ALWAYS void load(const Heads& x, int64_t clip, int64_t place, int64_t heads, int64_t dim, float* __restrict to) {
  const X* from = static_cast<const X*>(x.data) + clip * x.clip + place * x.token;
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t i = 0; i < dim; ++i) to[head * dim + i] = widened(from[head * x.head + i]);
  }
}

template <typename X>
ALWAYS void store(const float* from, int64_t n, X* __restrict to) {
  for (int64_t i = 0; i < n; ++i) to[i] = narrowed<X>(from[i]);
}

// A vector [D] or [heads * D] for all heads; `otherwise` where it is not there.
ALWAYS void spread(const float* vector, float otherwise, const NormRope& how, float* __restrict to) {
  const bool across = how.norm == HeadNorm::kRmsAcrossHeads;
  for (int64_t head = 0; head < how.heads; ++head) {
    for (int64_t i = 0; i < how.dim; ++i) {
      to[head * how.dim + i] = vector == nullptr ? otherwise : vector[(across ? head * how.dim : 0) + i];
    }
  }
}

// Cosine and sine of each pair of a token.
struct Turn {
  alignas(64) float cosine[kRoom / 2], sine[kRoom / 2];
  int64_t pairs = 0;  // 0: not rotated
};

ALWAYS void take_turn(const Rotation& rotation, int64_t place, float sign, Turn& to) {
  const int64_t position = rotation.begin + place;
  to.pairs = 0;
  if (rotation.tables[0] == nullptr || position < 0 || position >= rotation.tokens) return;
  const int64_t in_frame = position % rotation.cells;
  const int64_t at[3] = {position / rotation.cells, in_frame / rotation.across, in_frame % rotation.across};
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t pairs = rotation.pairs[axis];
    const float* row = rotation.tables[axis] + at[axis] * pairs * 2;
    for (int64_t i = 0; i < pairs; ++i) {
      to.cosine[to.pairs + i] = row[2 * i];
      to.sine[to.pairs + i] = sign * row[2 * i + 1];
    }
    to.pairs += pairs;
  }
}

ALWAYS void rotate(const NormRope& how, const Turn& turn, float* __restrict value) {
  const float *__restrict cosine = turn.cosine, *__restrict sine = turn.sine;
  for (int64_t head = 0; head < how.heads && turn.pairs > 0; ++head, value += how.dim) {
    if (how.rotation.halves) {
      float* __restrict other = value + turn.pairs;
      for (int64_t i = 0; i < turn.pairs; ++i) {
        const float first = value[i], second = other[i];
        value[i] = first * cosine[i] - second * sine[i];
        other[i] = second * cosine[i] + first * sine[i];
      }
    } else {
      for (int64_t i = 0; i < turn.pairs; ++i) {
        const float first = value[2 * i], second = value[2 * i + 1];
        value[2 * i] = first * cosine[i] - second * sine[i];
        value[2 * i + 1] = second * cosine[i] + first * sine[i];
      }
    }
  }
}

// The channels that are normed together: how many groups, how many channels of each.
struct Groups {
  int64_t number, size;
};
ALWAYS Groups groups(const NormRope& how) {
  if (how.norm == HeadNorm::kRmsAcrossHeads) return {1, width(how)};
  return {how.heads, how.dim};
}

// (value - mean) / deviation of n channels, in place; 1 / deviation.
ALWAYS float normalise(const NormRope& how, int64_t n, float* __restrict value) {
  float mean = 0;
  if (how.norm == HeadNorm::kLayer) {
    Sum sum;
    add_to(sum, value, n);
    mean = sum.total() / float(n);
  }
  const float rate = 1 / std::sqrt(sum_of_squares(value, mean, n) / float(n) + how.epsilon);
  for (int64_t i = 0; i < n; ++i) value[i] = (value[i] - mean) * rate;
  return rate;
}

template <typename X>
ALWAYS void forward_tokens(const NormRope& how, const Heads& x, int64_t begin, int64_t end, X* y) {
  const int64_t n = width(how);
  const auto [number, size] = groups(how);
  alignas(64) float value[kRoom], weight[kRoom], bias[kRoom];
  Turn turn;
  spread(how.weight, 1, how, weight);
  spread(how.bias, 0, how, bias);
  for (int64_t token = begin; token < end; ++token) {
    load<X>(x, token / how.count, token % how.count, how.heads, how.dim, value);
    if (how.norm != HeadNorm::kNone) {
      for (int64_t k = 0; k < number; ++k) normalise(how, size, value + k * size);
      for (int64_t i = 0; i < n; ++i) value[i] = value[i] * weight[i] + bias[i];
    }
    take_turn(how.rotation, token % how.count, 1, turn);
    rotate(how, turn, value);
    store(value, n, y + token * n);
  }
}

// Back through the norm of one group: unit is what was normed, gradient that of the result, and then that of x.
ALWAYS void through_norm(const NormRope& how, const float* unit, float rate, int64_t n, float* __restrict gradient) {
  Sum along, middle;
  add_products_to(along, gradient, unit, n);
  if (how.norm == HeadNorm::kLayer) add_to(middle, gradient, n);
  const float by_unit = along.total() / float(n), by_one = middle.total() / float(n);
  for (int64_t i = 0; i < n; ++i) gradient[i] = (gradient[i] - unit[i] * by_unit - by_one) * rate;
}

// Tokens of a segment: a number that does not depend on threads.
int64_t segment_length(const NormRope& how) { return std::max<int64_t>(32, (how.clips * how.count + 255) / 256); }

template <typename X>
ALWAYS void backward_segments(const NormRope& how, const Heads& x, const Heads& dy, int64_t first, int64_t last, X* dx,
                              float* partial) {
  const int64_t n = width(how), total = how.clips * how.count, length = segment_length(how);
  const auto [number, size] = groups(how);
  alignas(64) float gradient[kRoom], unit[kRoom], weight[kRoom];
  Turn turn;
  spread(how.weight, 1, how, weight);
  for (int64_t segment = first; segment < last; ++segment) {
    float *dweight = partial == nullptr ? nullptr : partial + segment * 2 * n, *dbias = dweight + n;
    if (partial != nullptr) std::fill(dweight, dweight + 2 * n, 0.0f);
    for (int64_t token = segment * length; token < std::min(total, (segment + 1) * length); ++token) {
      const int64_t clip = token / how.count, place = token % how.count;
      load<X>(dy, clip, place, how.heads, how.dim, gradient);
      take_turn(how.rotation, place, -1, turn);
      rotate(how, turn, gradient);
      if (how.norm != HeadNorm::kNone) {
        load<X>(x, clip, place, how.heads, how.dim, unit);
        for (int64_t k = 0; k < number; ++k) {
          const int64_t at = k * size;
          const float rate = normalise(how, size, unit + at);
          for (int64_t i = at; partial != nullptr && i < at + size; ++i) {
            dweight[i] += gradient[i] * unit[i];
            dbias[i] += gradient[i];
          }
          for (int64_t i = at; i < at + size; ++i) gradient[i] *= weight[i];
          through_norm(how, unit + at, rate, size, gradient + at);
        }
      }
      store(gradient, n, dx + token * n);
    }
  }
}

INSTRUCTION_SETS void forward_of(const NormRope& how, const Heads& x, int64_t begin, int64_t end, float* y) {
  forward_tokens(how, x, begin, end, y);
}
INSTRUCTION_SETS void forward_of(const NormRope& how, const Heads& x, int64_t begin, int64_t end, BFloat16* y) {
  forward_tokens(how, x, begin, end, y);
}
INSTRUCTION_SETS void backward_of(const NormRope& how, const Heads& x, const Heads& dy, int64_t first, int64_t last,
                                  float* dx, float* partial) {
  backward_segments(how, x, dy, first, last, dx, partial);
}
INSTRUCTION_SETS void backward_of(const NormRope& how, const Heads& x, const Heads& dy, int64_t first, int64_t last,
                                  BFloat16* dx, float* partial) {
  backward_segments(how, x, dy, first, last, dx, partial);
}

}  // namespace

void norm_rope_cpu(const NormRope& how, const Heads& x, void* y) {
  torch::stable::parallel_for(
      0, how.clips * how.count, 1 + kGrain / width(how), [&](int64_t begin, int64_t end) {
        if (x.half) {
          forward_of(how, x, begin, end, static_cast<BFloat16*>(y));
        } else {
          forward_of(how, x, begin, end, static_cast<float*>(y));
        }
      });
}

int64_t norm_rope_segments(const NormRope& how) {
  const int64_t length = segment_length(how);
  return (how.clips * how.count + length - 1) / length;
}

void norm_rope_backward_cpu(const NormRope& how, const Heads& x, const Heads& dy, void* dx, float* sums,
                            float* partial) {
  const int64_t segments = norm_rope_segments(how), n = width(how);
  const int64_t grain = 1 + kGrain / (segment_length(how) * n);
  torch::stable::parallel_for(0, segments, grain, [&](int64_t begin, int64_t end) {
    if (dy.half) {
      backward_of(how, x, dy, begin, end, static_cast<BFloat16*>(dx), partial);
    } else {
      backward_of(how, x, dy, begin, end, static_cast<float*>(dx), partial);
    }
  });
  if (sums == nullptr) return;
  std::copy(partial, partial + 2 * n, sums);
  for (int64_t segment = 1; segment < segments; ++segment) {
    for (int64_t i = 0; i < 2 * n; ++i) sums[i] += partial[segment * 2 * n + i];
  }
}

}  // namespace phys4d
