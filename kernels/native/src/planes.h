#pragma once
#include <cstdint>

namespace phys4d {

// Images [clips, frames, height, width] with contiguous planes; strides in elements.
template <typename T>
struct Planes {
  const T* data;
  int64_t clip, frame;
  const T* at(int64_t b, int64_t t) const { return data == nullptr ? nullptr : data + b * clip + t * frame; }
};

}  // namespace phys4d
