#pragma once
#include <algorithm>

#include "adaptive_norm.h"

// What the tokens of a row share, in float32.
namespace phys4d {

constexpr int64_t kRoom = kWidest + 80;  // not a power of two: rooms would share the same few lines of a cache
constexpr int64_t kGrain = 1 << 15;      // numbers that are worth a thread

struct Modulation {
  alignas(64) float room[kRoom], factor[kRoom], offset[kRoom];
  const float* gate;
  int64_t row = -1;
};

ALWAYS void take_gate(const Rows& table, int64_t row, int64_t n, Modulation& to) {
  to.gate = table.data == nullptr || table.half ? to.room : table.at<float>(0, row);
  if (table.data == nullptr) std::fill(to.room, to.room + n, 1.0f);
  if (!table.half) return;
  const BFloat16* gate = table.at<BFloat16>(0, row);
  for (int64_t i = 0; i < n; ++i) to.room[i] = widened(gate[i]);
}

// weight * (1 + scale), and, where it is wanted, bias * (1 + scale) + shift.
ALWAYS void take_factor(const Rows& scale, const Rows& weight, int64_t row, int64_t n, Modulation& to,
                        const Rows* bias = nullptr, const Rows* shift = nullptr) {
  if (scale.data == nullptr) std::fill(to.factor, to.factor + n, 1.0f);
  with_row(scale, 0, row, [&](const auto* x) ALWAYS_INLINE {
    for (int64_t i = 0; i < n; ++i) to.factor[i] = 1 + widened(x[i]);
  });
  if (bias != nullptr) {
    if (bias->data == nullptr && shift->data == nullptr) std::fill(to.offset, to.offset + n, 0.0f);
    with_row(*bias, 0, 0, [&](const auto* x) ALWAYS_INLINE {
      for (int64_t i = 0; i < n; ++i) to.offset[i] = widened(x[i]) * to.factor[i];
    });
    with_row(*shift, 0, row, [&](const auto* x) ALWAYS_INLINE {
      if (bias->data == nullptr) {
        for (int64_t i = 0; i < n; ++i) to.offset[i] = widened(x[i]);
      } else {
        for (int64_t i = 0; i < n; ++i) to.offset[i] += widened(x[i]);
      }
    });
  }
  with_row(weight, 0, 0, [&](const auto* x) ALWAYS_INLINE {
    for (int64_t i = 0; i < n; ++i) to.factor[i] *= widened(x[i]);
  });
}

}  // namespace phys4d
