#pragma once
#include <cstdint>
#include <cstring>

#include "instruction_sets.h"

// Numbers of a token, float32 or bfloat16 in memory and float32 in all arithmetic.
namespace phys4d {

using BFloat16 = uint16_t;  // its bits: the upper half of a float32

// Rows of numbers that are contiguous within a row; strides in elements. No data: not there.
struct Rows {
  const void* data = nullptr;
  bool half = false;  // bfloat16
  int64_t outer = 0, inner = 0;
  template <typename T>
  ALWAYS const T* at(int64_t i, int64_t j) const {
    return static_cast<const T*>(data) + i * outer + j * inner;
  }
};

// Calls a function with the row (i, j), if there is one, in the dtype that it has.
template <typename F>
ALWAYS void with_row(const Rows& rows, int64_t i, int64_t j, const F& function) {
  if (rows.data == nullptr) return;
  if (rows.half) {
    function(rows.at<BFloat16>(i, j));
  } else {
    function(rows.at<float>(i, j));
  }
}

ALWAYS float widened(float x) { return x; }
ALWAYS float widened(BFloat16 x) {
  const uint32_t bits = uint32_t{x} << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

template <typename T>
ALWAYS T narrowed(float x);
template <>
ALWAYS float narrowed<float>(float x) {
  return x;
}
// To nearest, ties to even.
template <>
ALWAYS BFloat16 narrowed<BFloat16>(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t near = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return static_cast<BFloat16>(x != x ? 0x7FC0 : near);
}

constexpr int64_t kChunk = 256;  // numbers that are worked on together: a few such rows stay in the innermost cache

// As wide as a register of most machines: GCC takes apart what is wider, number by number.
typedef float Lanes __attribute__((vector_size(32)));
constexpr int64_t kLanes = 8;

ALWAYS Lanes lanes(const float* x) {
  Lanes found;
  std::memcpy(&found, x, sizeof found);
  return found;
}

// A sum whose order is the same whatever the instruction set.
struct Sum {
  Lanes first{}, second{}, third{}, fourth{};  // each waits for itself alone
  float rest = 0;
  template <typename F, typename G>
  ALWAYS void add(int64_t n, const F& several, const G& one) {
    int64_t i = 0;
    for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
      first += several(i);
      second += several(i + kLanes);
      third += several(i + 2 * kLanes);
      fourth += several(i + 3 * kLanes);
    }
    for (; i < n; ++i) rest += one(i);
  }
  ALWAYS float total() const {
    const Lanes all = (first + third) + (second + fourth);
    float found = rest;
    for (int64_t lane = 0; lane < kLanes; ++lane) found += all[lane];
    return found;
  }
};

ALWAYS void add_to(Sum& sum, const float* x, int64_t n) {
  sum.add(n, [&](int64_t i) ALWAYS_INLINE { return lanes(x + i); }, [&](int64_t i) ALWAYS_INLINE { return x[i]; });
}

ALWAYS void add_products_to(Sum& sum, const float* x, const float* y, int64_t n) {
  sum.add(
      n, [&](int64_t i) ALWAYS_INLINE { return lanes(x + i) * lanes(y + i); },
      [&](int64_t i) ALWAYS_INLINE { return x[i] * y[i]; });
}

// Of (x - middle)^2.
ALWAYS float sum_of_squares(const float* x, float middle, int64_t n) {
  Sum sum;
  sum.add(
      n,
      [&](int64_t i) ALWAYS_INLINE {
        const Lanes apart = lanes(x + i) - middle;
        return apart * apart;
      },
      [&](int64_t i) ALWAYS_INLINE { return (x[i] - middle) * (x[i] - middle); });
  return sum.total();
}

}  // namespace phys4d
