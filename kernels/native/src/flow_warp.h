#pragma once
#include <cstdint>

// Backward warp: warped(x) = frames(x + flow(x)), bilinear. The definition is ../../geometry/warps/flow_warp_reference.py.
namespace phys4d {

// Images [clips, channels, times, height, width] with contiguous planes; strides in elements.
template <typename T>
struct Video {
  const T* data;
  int64_t clip, channel, time;
  const T* at(int64_t b, int64_t c, int64_t t) const { return data + b * clip + c * channel + t * time; }
};

// labels and wanted [clips, times, height, width], contiguous, or null: then every pixel counts. Else one counts whose
// label is off what is wanted by tolerance times that at most.
template <typename T>
struct FlowWarpInputs {
  Video<T> frames, flow;
  const T *labels, *wanted;
  int64_t clips, channels, times, height, width;
  double tolerance;
  bool clamp;
};

// Writes every element of warped [clips, channels, times, height, width] and inside [clips, times, height, width].
template <typename T>
void flow_warp_cpu(const FlowWarpInputs<T>& in, T* warped, bool* inside);

// Writes every element of d_frames (as warped) unless it is null, and of d_flow [clips, 2, times, height, width].
template <typename T>
void flow_warp_backward_cpu(const FlowWarpInputs<T>& in, const Video<T>& grad, T* d_frames, T* d_flow);

}  // namespace phys4d
