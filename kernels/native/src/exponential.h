#pragma once
#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "instruction_sets.h"

// e^x that the compiler turns into vectors, with the same bits on every instruction set: 2^n times the series of e^r,
// |r| <= ln 2 / 2. Results below the smallest normal number lose bits as they should, down to 0.
namespace phys4d {

template <typename T>
ALWAYS T exponential(T x) {
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  constexpr int kMantissa = std::numeric_limits<T>::digits - 1, kTerms = sizeof(T) == 4 ? 7 : 13;
  constexpr Bits kBias = std::numeric_limits<T>::max_exponent - 1;
  constexpr T kMost = sizeof(T) == 4 ? T(105) : T(750);  // beyond it everything is 0 or infinite
  const T low = x > -kMost ? x : -kMost, bounded = low < kMost ? low : kMost;
  // Added to 1.5 * 2^mantissa a number is rounded to an integer, which stands in the lowest bits.
  const T shift = T(Bits{3} << (kMantissa - 1)), shifted = bounded * T(1.44269504088896340736) + shift;
  const T whole = shifted - shift;
  const Bits n = std::bit_cast<Bits>(shifted) - std::bit_cast<Bits>(shift);
  // ln 2 in two parts, the first short enough for exact products with n.
  const T high = sizeof(T) == 4 ? T(0.693145751953125) : T(0.693147180369123816490);
  const T rest = sizeof(T) == 4 ? T(1.42860682030941723212e-6) : T(1.90821492927058770002e-10);
  const T r = (bounded - whole * high) - whole * rest;
  T factorial = 1, inverse[kTerms + 1] = {T(1)};
  for (int k = 1; k <= kTerms; ++k) inverse[k] = T(1) / (factorial *= T(k));
  T series = inverse[kTerms];
  for (int k = kTerms - 1; k > 0; --k) series = series * r + inverse[k];
  series = series * r + T(1);
  const Bits half = n >> 1;  // in two factors: 2^n itself may not be a number
  const auto power = [](Bits k) { return std::bit_cast<T>(static_cast<Bits>((k + kBias) << kMantissa)); };
  const T result = series * power(half) * power(n - half);
  return x == x ? result : x;
}

}  // namespace phys4d
