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

typedef float Lanes __attribute__((vector_size(64)));
constexpr int64_t kLanes = 16;

ALWAYS Lanes lanes(const float* x) {
  Lanes found;
  std::memcpy(&found, x, sizeof found);
  return found;
}

ALWAYS float across(const Lanes& x) {
  float total = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) total += x[lane];
  return total;
}

// Sums are added up in the same order whatever the instruction set.
ALWAYS float sum(const float* x, int64_t n) {
  Lanes a{}, b{};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    a += lanes(x + i);
    b += lanes(x + i + kLanes);
  }
  float total = across(a + b);
  for (; i < n; ++i) total += x[i];
  return total;
}

// Of (x - middle)^2.
ALWAYS float sum_of_squares(const float* x, float middle, int64_t n) {
  Lanes a{}, b{};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    const Lanes first = lanes(x + i) - middle, second = lanes(x + i + kLanes) - middle;
    a += first * first;
    b += second * second;
  }
  float total = across(a + b);
  for (; i < n; ++i) total += (x[i] - middle) * (x[i] - middle);
  return total;
}

ALWAYS float sum_of_products(const float* x, const float* y, int64_t n) {
  Lanes a{}, b{};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    a += lanes(x + i) * lanes(y + i);
    b += lanes(x + i + kLanes) * lanes(y + i + kLanes);
  }
  float total = across(a + b);
  for (; i < n; ++i) total += x[i] * y[i];
  return total;
}

}  // namespace phys4d
