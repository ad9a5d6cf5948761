#pragma once
#include <cstdint>

#include "planes.h"

// Distances of two scene flows, given by depth, motion and intrinsics. The definition is
// ../../geometry/losses/scene_flow_reference.py.
namespace phys4d {

// What depth and motion say: depth [clips, frames, H, W], du, dv (pixels) and dz [clips, frames - 1, H, W].
template <typename T>
struct DepthAndMotion {
  Planes<T> depth, du, dv, dz;
};

// weight may be null; intrinsics [clips, frames, 3, 3] are contiguous.
template <typename T>
struct SceneFlowInputs {
  DepthAndMotion<T> predicted, truth;
  Planes<T> weight;
  Planes<bool> valid;
  const T* intrinsics;
  int64_t clips, frames, height, width;
};

// Per clip the weighted sum of distances and the sum of weights. The same bits for any number of threads.
template <typename T>
void scene_flow_cpu(const SceneFlowInputs<T>& in, double* sum, double* total);

// scale [clips]: gradient of a clip's loss over its sum of weights. Writes every element of d_depth
// [clips, frames, H, W], whose last frame gets zeros, and of d_motion [clips, 3, frames - 1, H, W].
template <typename T>
void scene_flow_backward_cpu(const SceneFlowInputs<T>& in, const double* scale, T* d_depth, T* d_motion);

}  // namespace phys4d
