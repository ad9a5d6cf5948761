#pragma once
#include <cstdint>

#include "token_numbers.h"

// Norm and rotation of the heads of tokens. The definition is ../../elementwise/norm_rope_reference.py.
namespace phys4d {

enum class HeadNorm { kNone, kRms, kLayer, kRmsAcrossHeads };

constexpr int64_t kWidestHeads = 8192;  // channels of all heads of a token

// [B, S, heads, D], D contiguous; strides in elements. No data: not there.
struct Heads {
  const void* data = nullptr;
  bool half = false;  // bfloat16
  int64_t clip = 0, token = 0, head = 0;
};

// Tables [positions, pairs, 2] of time, height and width, cosine and sine; null: no rotation. The token at `place` of a
// clip stands at begin + place of a video of `tokens` tokens, of which `cells` make a frame and `across` a row; outside
// of the video nothing is rotated. halves: pair i is of channels i and i + D/2, else 2i and 2i + 1.
struct Rotation {
  const float* tables[3] = {nullptr, nullptr, nullptr};
  int64_t pairs[3] = {0, 0, 0};
  int64_t cells = 1, across = 1, tokens = 0, begin = 0;
  bool halves = false;
};

// weight and bias: [D], or [heads * D] across heads; null: not there.
struct NormRope {
  int64_t clips, count, heads, dim;  // count: tokens of a clip
  HeadNorm norm;
  float epsilon;
  const float *weight, *bias;
  Rotation rotation;
};

// y [B, S, heads, D], of the dtype of x.
void norm_rope_cpu(const NormRope& how, const Heads& x, void* y);

// How many sums of gradients of weight and bias there are: room for them is the caller's.
int64_t norm_rope_segments(const NormRope& how);

// dx [B, S, heads, D], of the dtype of dy; x is read where there is a norm. sums [heads * D] of the weight's gradient, then
// as many of the bias's, or null, with partial [norm_rope_segments, 2, heads * D]. The same bits for any number of
// threads.
void norm_rope_backward_cpu(const NormRope& how, const Heads& x, const Heads& dy, void* dx, float* sums,
                            float* partial);

}  // namespace phys4d
