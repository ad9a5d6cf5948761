#pragma once
#include <cstdint>

// Numbers of type T that fill a vector of kBytes, and the integers of comparisons between such vectors.
template <typename T, int kBytes>
struct Lanes;
template <int kBytes>
struct Lanes<float, kBytes> {
  typedef float Value __attribute__((vector_size(kBytes)));
  typedef int32_t Index __attribute__((vector_size(kBytes)));
};
template <int kBytes>
struct Lanes<double, kBytes> {
  typedef double Value __attribute__((vector_size(kBytes)));
  typedef int64_t Index __attribute__((vector_size(kBytes)));
};
