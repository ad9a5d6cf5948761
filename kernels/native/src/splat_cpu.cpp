// A frame is filled by one task in raster order, so that the first of equally near pixels wins on any number of
// threads; where pixels land is computed in chunks that the compiler turns into vectors.
#include "splat.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <limits>

#include "instruction_sets.h"

namespace phys4d {
namespace {

constexpr int kChunk = 256;

// The pixel of the frame, or -1, where each pixel [begin, begin + n) of a row lands.
template <typename T>
ALWAYS void targets_in(const T* du, const T* dv, const T* depth, const uint8_t* valid, int64_t width, int64_t height,
                       int64_t row, int64_t begin, int n, int32_t* target) {
  const T wide = T(width), high = T(height), here_v = T(row) + T(0.5);
  for (int i = 0; i < n; ++i) {  // int64_t would keep it from becoming vectors
    T u = T(static_cast<int>(begin) + i) + T(0.5) + du[i], v = here_v + dv[i];
    const bool lands = (depth[i] > 0) & (u >= 0) & (u < wide) & (v >= 0) & (v < high);
    u = lands ? u : T(0);
    v = lands ? v : T(0);
    const int32_t place = static_cast<int32_t>(v) * static_cast<int32_t>(width) + static_cast<int32_t>(u);
    target[i] = lands ? place : -1;
  }
  if (valid == nullptr) return;
  for (int i = 0; i < n; ++i) target[i] = valid[i] != 0 ? target[i] : -1;
}

INSTRUCTION_SETS void targets_of(const float* du, const float* dv, const float* depth, const uint8_t* valid,
                                 int64_t width, int64_t height, int64_t row, int64_t begin, int n, int32_t* target) {
  targets_in(du, dv, depth, valid, width, height, row, begin, n, target);
}
INSTRUCTION_SETS void targets_of(const double* du, const double* dv, const double* depth, const uint8_t* valid,
                                 int64_t width, int64_t height, int64_t row, int64_t begin, int n, int32_t* target) {
  targets_in(du, dv, depth, valid, width, height, row, begin, n, target);
}

template <typename T>
void splat_frame(const SplatInputs<T>& in, int64_t b, int64_t t, T* taken, T* found, int64_t* index) {
  const int64_t plane = in.height * in.width;
  const T *du = in.flow.at(b, 0, t), *dv = in.flow.at(b, 1, t), *depth = in.depth.at(b, 0, t);
  const uint8_t* valid = reinterpret_cast<const uint8_t*>(in.valid.at(b, 0, t));
  std::fill(found, found + plane, T(0));
  std::fill(index, index + plane, int64_t{-1});
  int32_t target[kChunk];
  for (int64_t row = 0; row < in.height; ++row) {
    for (int64_t begin = 0; begin < in.width; begin += kChunk) {
      const int n = static_cast<int>(std::min<int64_t>(kChunk, in.width - begin));
      const int64_t at = row * in.width + begin;
      targets_of(du + at, dv + at, depth + at, valid == nullptr ? nullptr : valid + at, in.width, in.height, row,
                 begin, n, target);
      for (int i = 0; i < n; ++i) {
        const int32_t place = target[i];
        if (place < 0) continue;
        if (index[place] < 0 || depth[at + i] < found[place]) {
          found[place] = depth[at + i];
          index[place] = at + i;
        }
      }
    }
  }
  for (int64_t channel = 0; channel < in.channels; ++channel) {
    const T* values = in.values.at(b, channel, t);
    T* out = taken + ((b * in.channels + channel) * in.times + t) * plane;
    for (int64_t j = 0; j < plane; ++j) out[j] = index[j] < 0 ? T(0) : values[index[j]];
  }
}

}  // namespace

template <typename T>
void splat_cpu(const SplatInputs<T>& in, T* taken, T* found, int64_t* index) {
  const int64_t plane = in.height * in.width;
  torch::stable::parallel_for(0, in.clips * in.times, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      splat_frame(in, i / in.times, i % in.times, taken, found + i * plane, index + i * plane);
    }
  });
}

template <typename T>
void splat_backward_cpu(const Images<T>& grad, const int64_t* index, int64_t clips, int64_t channels, int64_t times,
                        int64_t plane, T* back) {
  torch::stable::parallel_for(0, clips * channels * times, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / (channels * times), t = i % times;
      const T* handed = grad.at(b, i / times % channels, t);
      const int64_t* source = index + (b * times + t) * plane;
      T* out = back + i * plane;
      std::fill(out, out + plane, T(0));
      for (int64_t j = 0; j < plane; ++j) {
        if (source[j] >= 0) out[source[j]] = handed[j];
      }
    }
  });
}

template void splat_cpu(const SplatInputs<float>&, float*, float*, int64_t*);
template void splat_cpu(const SplatInputs<double>&, double*, double*, int64_t*);
template void splat_backward_cpu(const Images<float>&, const int64_t*, int64_t, int64_t, int64_t, int64_t, float*);
template void splat_backward_cpu(const Images<double>&, const int64_t*, int64_t, int64_t, int64_t, int64_t, double*);

}  // namespace phys4d
