// Chamfer distance and its gradients on the CPU; the search itself is in nearest_tree_cpu.cpp.
#include "chamfer.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "nearest_tree.h"

namespace {

constexpr int64_t kAlone = 1 << 12;  // points that one thread is done with sooner than several would start

int64_t grain_of(int64_t points) { return points < kAlone ? std::numeric_limits<int64_t>::max() / 2 : 1; }

template <typename T>
double mean_of(const T* squares, int64_t count, bool squared) {
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += squared ? squares[i] : std::sqrt(squares[i]);
  return total / static_cast<double>(count);
}

// weight * (from - to) / |from - to|, or twice weight * (from - to) of a squared distance; 0 where they coincide.
template <typename T, int D>
inline void pull(const T* from, const T* to, T weight, bool squared, T* result) {
  T total = 0;
  for (int axis = 0; axis < D; ++axis) {
    result[axis] = from[axis] - to[axis];
    total = total + result[axis] * result[axis];
  }
  const T slope = squared ? 2 * weight : total == 0 ? T{0} : weight / std::sqrt(total);
  for (int axis = 0; axis < D; ++axis) result[axis] *= slope;
}

// The gradient in one cloud `here` [n, D], whose points chose toward_there and were chosen by toward_here.
template <typename T, int D>
void gradient_of(const T* here, const T* there, const int64_t* toward_there, const int64_t* toward_here, int64_t n,
                 int64_t m, T upstream, bool squared, T* gradient) {
  const T own = upstream / static_cast<T>(n), others = upstream / static_cast<T>(m);
  for (int64_t i = 0; i < n; ++i) {
    pull<T, D>(here + D * i, there + D * toward_there[i], own, squared, gradient + D * i);
  }
  for (int64_t k = 0; k < m; ++k) {
    const int64_t i = toward_here[k];
    T step[D];
    pull<T, D>(here + D * i, there + D * k, others, squared, step);
    for (int axis = 0; axis < D; ++axis) gradient[D * i + axis] += step[axis];
  }
}

}  // namespace

template <typename T, int D>
void chamfer_cpu(const ChamferBatch<T>& clouds, bool squared, T* value, int64_t* toward_y, int64_t* toward_x) {
  const auto& [x, y, x_lengths, y_lengths, batch, n, m] = clouds;
  const std::unique_ptr<T[]> to_y(new T[batch * n]), to_x(new T[batch * m]);
  std::vector<Search<T>> searches;
  std::fill(toward_y, toward_y + batch * n, 0);
  std::fill(toward_x, toward_x + batch * m, 0);
  for (int64_t b = 0; b < batch; ++b) {
    searches.push_back({x + b * n * D, y + b * m * D, x_lengths[b], y_lengths[b], to_y.get() + b * n,
                        toward_y + b * n, to_x.get() + b * m, toward_x + b * m});
  }
  nearest_in_trees<T, D>(searches);
  torch::stable::parallel_for(0, batch, grain_of(batch * (n + m)), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const Search<T>& search = searches[b];
      const bool both = search.n > 0 && search.m > 0;
      value[b] = both ? static_cast<T>(mean_of(search.x_distance, search.n, squared) +
                                       mean_of(search.y_distance, search.m, squared))
                      : T{0};
    }
  });
}

template <typename T, int D>
void chamfer_gradients_cpu(const ChamferBatch<T>& clouds, const int64_t* toward_y, const int64_t* toward_x,
                           const T* value_gradient, bool squared, T* x_gradient, T* y_gradient) {
  const auto& [x, y, x_lengths, y_lengths, batch, n, m] = clouds;
  torch::stable::parallel_for(0, 2 * batch, grain_of(batch * (n + m)), [&, x = x, y = y, x_lengths = x_lengths, y_lengths = y_lengths, n = n,
                                                m = m](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      const int64_t b = at / 2, here = at % 2 ? m : n;
      T* gradient = at % 2 ? y_gradient + b * m * D : x_gradient + b * n * D;
      const T upstream = value_gradient[b];
      int64_t count = at % 2 ? y_lengths[b] : x_lengths[b];
      // Nothing flows where nothing was asked for, whatever the points are.
      if (x_lengths[b] == 0 || y_lengths[b] == 0 || upstream == 0) count = 0;
      std::fill(gradient + count * D, gradient + here * D, T{0});
      if (count == 0) continue;
      const T *xs = x + b * n * D, *ys = y + b * m * D;
      const int64_t *to_y = toward_y + b * n, *to_x = toward_x + b * m;
      if (at % 2) {
        gradient_of<T, D>(ys, xs, to_x, to_y, y_lengths[b], x_lengths[b], upstream, squared, gradient);
      } else {
        gradient_of<T, D>(xs, ys, to_y, to_x, x_lengths[b], y_lengths[b], upstream, squared, gradient);
      }
    }
  });
}

#define INSTANTIATE(T, D)                                                                                      \
  template void chamfer_cpu<T, D>(const ChamferBatch<T>&, bool, T*, int64_t*, int64_t*);                       \
  template void chamfer_gradients_cpu<T, D>(const ChamferBatch<T>&, const int64_t*, const int64_t*, const T*, \
                                            bool, T*, T*);
INSTANTIATE(float, 3)
INSTANTIATE(float, 4)
INSTANTIATE(double, 3)
INSTANTIATE(double, 4)
