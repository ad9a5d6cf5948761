#pragma once
#include <cstdint>

// A batch of pairs of clouds x [batch, n, D] and y [batch, m, D], of which the first x_lengths [batch] and y_lengths
// [batch] points count. D is 3 or 4.
template <typename T>
struct ChamferBatch {
  const T* x;
  const T* y;
  const int64_t* x_lengths;
  const int64_t* y_lengths;
  int64_t batch, n, m;
};

// value [batch]: mean distance (or squared distance) of x's points to y plus that of y's to x, summed in double in the
// points' order; 0 where a cloud is empty. toward_y [batch, n], toward_x [batch, m]: who is nearest; 0 in the padding.
template <typename T, int D>
void chamfer_cpu(const ChamferBatch<T>& clouds, bool squared, T* value, int64_t* toward_y, int64_t* toward_x);

// The gradients in all of x and y, given that of value. Each element has one owner, which adds in the points' order.
template <typename T, int D>
void chamfer_gradients_cpu(const ChamferBatch<T>& clouds, const int64_t* toward_y, const int64_t* toward_x,
                           const T* value_gradient, bool squared, T* x_gradient, T* y_gradient);
