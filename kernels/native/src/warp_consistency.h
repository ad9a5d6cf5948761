#pragma once
#include <cstdint>

#include "planes.h"

// Warp consistency: residual = sampled(x + sign * flow) - (base + sign * dz), sampled bilinearly in inverse depth.
// Forward form (sign 1): samples frame t + 1, base is frame t, both of depth. Backward form (sign -1): samples
// frame t of depth, base is frame t + 1 of truth. The definition is ../../geometry/losses/warp_reference.py.
namespace phys4d {

enum class WarpLoss { kL1, kCharbonnier, kRelative, kSquared };

// weight and visible may be null: weight 1 everywhere, everything visible. truth null: the forward form.
template <typename T>
struct WarpInputs {
  Planes<T> depth, truth, du, dv, dz, weight;
  Planes<bool> visible;
  int64_t clips, frames, height, width;
  WarpLoss loss;
  double z_test;  // a sample nearer than (1 - z_test) * moved hides the point; negative: no test
  bool clamp;     // points out of the image read its border instead of being left out
};

// Per clip: weighted sum of errors, sum of weights, pixels used. The same bits for any number of threads.
template <typename T>
void warp_consistency_cpu(const WarpInputs<T>& in, double* sum, double* total, int64_t* used);

// scale [clips]: gradient of a clip's loss over its sum of weights. Writes every element of d_depth
// [clips, frames, height, width] and d_motion [clips, 3, frames - 1, height, width].
template <typename T>
void warp_consistency_backward_cpu(const WarpInputs<T>& in, const double* scale, T* d_depth, T* d_motion);

}  // namespace phys4d
