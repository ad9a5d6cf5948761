#pragma once
#include <cstdint>

// Forward warp with a depth buffer. The definition is ../../geometry/warps/splat_reference.py.
namespace phys4d {

// Images [clips, channels, times, height, width] with contiguous planes; strides in elements.
template <typename T>
struct Images {
  const T* data;
  int64_t clip, channel, time;
  const T* at(int64_t b, int64_t c, int64_t t) const {
    return data == nullptr ? nullptr : data + b * clip + c * channel + t * time;
  }
};

// valid may be null: everything is. depth and valid have one channel.
template <typename T>
struct SplatInputs {
  Images<T> values, flow, depth;
  Images<bool> valid;
  int64_t clips, channels, times, height, width;
};

// Writes every element of taken [clips, channels, times, height, width], found and index [clips, times, height, width].
template <typename T>
void splat_cpu(const SplatInputs<T>& in, T* taken, T* found, int64_t* index);

// Hands the gradient of each pixel back to its source; writes every element of back [images, plane]. Image i has the
// indices of image i / (channels * times) * times + i % times.
template <typename T>
void splat_backward_cpu(const Images<T>& grad, const int64_t* index, int64_t clips, int64_t channels, int64_t times,
                        int64_t plane, T* back);

}  // namespace phys4d
