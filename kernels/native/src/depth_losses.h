#pragma once
#include <cstdint>

// Losses of a depth map against another, from one pass over both. The definition is ../../geometry/losses/depth_reference.py.
namespace phys4d {

constexpr int kMostScales = 8;

enum DepthTerm { kLogL1 = 1, kSilog = 2, kScaleShift = 4, kGradient = 8 };  // bits of `wanted`

// Everything contiguous, [clips, frames, height, width]; weight may be null.
template <typename T>
struct DepthInputs {
  const T *predicted, *target, *weight;
  const uint8_t* valid;
  int64_t clips, frames, height, width;
  int scales, wanted;
};

// What one frame adds up to; moments are about the frame's means.
struct DepthSums {
  double weight, log_abs, log_mean, log_square;  // log_mean: weighted mean; log_square: about it
  double mean_p, mean_d, pp, pd, dd;
  double differences[kMostScales];
  double pairs[kMostScales];
};

template <typename T>
void depth_losses_cpu(const DepthInputs<T>& in, DepthSums* sums);

// Slopes of the loss for one frame: of |log ratio|, of the log ratio (linear and constant), of scale * p + shift - d
// (times weight and pixel), and of each scale's differences.
struct DepthSlopes {
  double log_abs, log_linear, log_constant, residual, scale, shift;
  double differences[kMostScales];
};

template <typename T>
void depth_losses_backward_cpu(const DepthInputs<T>& in, const DepthSlopes* slopes, T* d_predicted);

}  // namespace phys4d
