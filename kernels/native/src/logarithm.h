#pragma once
#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "instruction_sets.h"

// Natural logarithm that the compiler turns into vectors, with the same bits on every instruction set: the exponent,
// and twice the series of artanh z = z + z^3 / 3 + ... at z = (m - 1) / (m + 1), |z| < 0.172.
namespace phys4d {

template <typename T>
ALWAYS T logarithm(T x) {
  using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  constexpr int kMantissa = std::numeric_limits<T>::digits - 1, kTerms = sizeof(T) == 4 ? 5 : 11;
  constexpr Bits kBias = std::numeric_limits<T>::max_exponent - 1, kOne = kBias << kMantissa;
  const bool tiny = x < std::numeric_limits<T>::min();
  const T grown = tiny ? x * T(Bits{1} << kMantissa) : x;
  // Shifted by the bits of sqrt(2) / 2, so that the mantissa m lies in [sqrt(2) / 2, sqrt(2)).
  using Word = std::make_unsigned_t<Bits>;  // wraps around for negative numbers, which are answered below
  const Bits middle = std::bit_cast<Bits>(T(0.70710678118654752440));
  const Bits bits = static_cast<Bits>(std::bit_cast<Word>(grown) - static_cast<Word>(middle) + static_cast<Word>(kOne));
  const Bits exponent = (bits >> kMantissa) - kBias - (tiny ? kMantissa : 0);
  const T m = std::bit_cast<T>(static_cast<Bits>((bits & ((Bits{1} << kMantissa) - 1)) + middle));
  const T z = (m - T(1)) / (m + T(1)), square = z * z;
  T series = T(1) / T(2 * kTerms + 1);
  for (int k = kTerms - 1; k > 0; --k) series = series * square + T(1) / T(2 * k + 1);
  // ln 2 in two parts, the first short enough for exact products with an exponent.
  const T high = sizeof(T) == 4 ? T(0.693145751953125) : T(0.693147180369123816490), e = T(exponent);
  const T low = sizeof(T) == 4 ? T(1.42860682030941723212e-6) : T(1.90821492927058770002e-10);
  const T result = e * high + (T(2) * z + (T(2) * z * (square * series) + e * low));
  const T infinite = std::numeric_limits<T>::infinity();
  return x > 0 ? (x < infinite ? result : x) : (x == 0 ? -infinite : std::numeric_limits<T>::quiet_NaN());
}

}  // namespace phys4d
