// One task per few rows, in loops over a chunk of a row that the compiler turns into vectors; sums are kept per row and
// added up in order: neither threads nor instruction sets change a bit.
//
// The difference of both flows is taken from differences of depth and motion, not from points, which are large:
//
//     e = (ray' - ray) (D - D*) + ray' (dz - dz*) + (ray' - ray'*) (D* + dz*)
//
// with ray = ((u - ...) / fx, (v - cy) / fy, 1) of the pixel at t, ray' of where it lands at t + 1, and * for the truth.
#include "scene_flow.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "instruction_sets.h"

namespace phys4d {
namespace {

constexpr int kChunk = 256;
constexpr int kLanes = 16;
constexpr int64_t kRowsPerTask = 16;

template <typename T>
struct Camera {  // what makes rays of pixels
  T across, down, skew, centre_u, centre_v;  // the first two: 1 / focal length
  explicit Camera(const T* k) : across(T(1) / k[0]), down(T(1) / k[4]), skew(k[1]), centre_u(k[2]), centre_v(k[5]) {}
};

template <typename T>
struct Chunk {  // neighbouring pixels of one row
  T x[kChunk], y[kChunk], z[kChunk];               // the difference of both flows
  T ray_x[kChunk], ray_y[kChunk];                  // where the prediction lands
  T off_x[kChunk], off_y[kChunk];                  // that ray less the pixel's own
  T landed[kChunk], distance[kChunk], weight[kChunk];
};

struct Numbers {
  double sum, total;
};

template <typename T>
ALWAYS void compare(const SceneFlowInputs<T>& in, int64_t b, int64_t t, int64_t row, int64_t begin, int64_t n,
                    Chunk<T>& c) {
  const Camera<T> before(in.intrinsics + (b * in.frames + t) * 9), after(in.intrinsics + (b * in.frames + t + 1) * 9);
  const int64_t at = row * in.width + begin;
  const DepthAndMotion<T>&p = in.predicted, &q = in.truth;
  const T *depth = p.depth.at(b, t) + at, *du = p.du.at(b, t) + at, *dv = p.dv.at(b, t) + at, *dz = p.dz.at(b, t) + at;
  const T *true_depth = q.depth.at(b, t) + at, *true_du = q.du.at(b, t) + at, *true_dv = q.dv.at(b, t) + at;
  const T* true_dz = q.dz.at(b, t) + at;
  const uint8_t* valid = reinterpret_cast<const uint8_t*>(in.valid.at(b, t)) + at;
  if (in.weight.data != nullptr) {
    const T* weight = in.weight.at(b, t) + at;
    for (int64_t i = 0; i < n; ++i) c.weight[i] = valid[i] != 0 ? weight[i] : T(0);
  } else {
    for (int64_t i = 0; i < n; ++i) c.weight[i] = valid[i] != 0 ? T(1) : T(0);
  }
  const T v = T(row) + T(0.5), own_y = (v - before.centre_v) * before.down;
  for (int i = 0; i < n; ++i) {
    const T u = T(static_cast<int>(begin) + i) + T(0.5);
    const T own_x = (u - before.centre_u - before.skew * own_y) * before.across;
    const T ray_y = (v + dv[i] - after.centre_v) * after.down;
    const T ray_x = (u + du[i] - after.centre_u - after.skew * ray_y) * after.across;
    const T between_y = (dv[i] - true_dv[i]) * after.down;
    const T between_x = (du[i] - true_du[i] - after.skew * between_y) * after.across;
    const T deeper = depth[i] - true_depth[i], farther = dz[i] - true_dz[i], landed = true_depth[i] + true_dz[i];
    const T off_x = ray_x - own_x, off_y = ray_y - own_y;
    const T x = off_x * deeper + ray_x * farther + between_x * landed;
    const T y = off_y * deeper + ray_y * farther + between_y * landed;
    c.x[i] = x;
    c.y[i] = y;
    c.z[i] = farther;
    c.ray_x[i] = ray_x;
    c.ray_y[i] = ray_y;
    c.off_x[i] = off_x;
    c.off_y[i] = off_y;
    c.landed[i] = depth[i] + dz[i];
    c.distance[i] = valid[i] != 0 ? std::sqrt(x * x + y * y + farther * farther) : T(0);
  }
}

template <typename T>
ALWAYS Numbers row_numbers(const SceneFlowInputs<T>& in, int64_t b, int64_t t, int64_t row) {
  Chunk<T> c;
  double sum[kLanes] = {}, total[kLanes] = {};
  for (int64_t begin = 0; begin < in.width; begin += kChunk) {
    const int64_t n = std::min<int64_t>(kChunk, in.width - begin), full = (n + kLanes - 1) / kLanes * kLanes;
    compare(in, b, t, row, begin, n, c);
    for (int64_t i = n; i < full; ++i) c.distance[i] = c.weight[i] = T(0);
    for (int64_t i = 0; i < full; i += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const double weight = c.weight[i + lane];
        sum[lane] += double(c.distance[i + lane]) * weight;
        total[lane] += weight;
      }
    }
  }
  Numbers found{0, 0};
  for (int lane = 0; lane < kLanes; ++lane) {
    found.sum += sum[lane];
    found.total += total[lane];
  }
  return found;
}

template <typename T>
ALWAYS void row_gradients(const SceneFlowInputs<T>& in, int64_t b, int64_t t, int64_t row, double scale, T* d_depth,
                          T* d_u, T* d_v, T* d_z) {
  const Camera<T> after(in.intrinsics + (b * in.frames + t + 1) * 9);
  Chunk<T> c;
  const T by = T(scale);
  for (int64_t begin = 0; begin < in.width; begin += kChunk) {
    const int64_t n = std::min<int64_t>(kChunk, in.width - begin), at = row * in.width + begin;
    compare(in, b, t, row, begin, n, c);
    for (int64_t i = 0; i < n; ++i) {
      const bool apart = c.distance[i] > 0 || c.distance[i] != c.distance[i];  // no slope where there is no error
      const T k = by * c.weight[i] / (apart ? c.distance[i] : T(1));
      const T x = k * c.x[i], y = k * c.y[i], z = k * c.z[i];
      const T along_u = x * after.across * c.landed[i];
      d_depth[at + i] = apart ? x * c.off_x[i] + y * c.off_y[i] : T(0);
      d_u[at + i] = apart ? along_u : T(0);
      d_v[at + i] = apart ? (y * c.landed[i] - along_u * after.skew) * after.down : T(0);
      d_z[at + i] = apart ? x * c.ray_x[i] + y * c.ray_y[i] + z : T(0);
    }
  }
}

INSTRUCTION_SETS Numbers numbers_of(const SceneFlowInputs<float>& in, int64_t b, int64_t t, int64_t row) {
  return row_numbers(in, b, t, row);
}
INSTRUCTION_SETS Numbers numbers_of(const SceneFlowInputs<double>& in, int64_t b, int64_t t, int64_t row) {
  return row_numbers(in, b, t, row);
}
INSTRUCTION_SETS void gradients_of(const SceneFlowInputs<float>& in, int64_t b, int64_t t, int64_t row, double scale,
                                   float* d_depth, float* d_u, float* d_v, float* d_z) {
  row_gradients(in, b, t, row, scale, d_depth, d_u, d_v, d_z);
}
INSTRUCTION_SETS void gradients_of(const SceneFlowInputs<double>& in, int64_t b, int64_t t, int64_t row, double scale,
                                   double* d_depth, double* d_u, double* d_v, double* d_z) {
  row_gradients(in, b, t, row, scale, d_depth, d_u, d_v, d_z);
}

}  // namespace

template <typename T>
void scene_flow_cpu(const SceneFlowInputs<T>& in, double* sum, double* total) {
  const int64_t pairs = in.frames - 1, rows = pairs * in.height;
  std::vector<Numbers> each(static_cast<size_t>(in.clips * rows));
  torch::stable::parallel_for(0, in.clips * rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / in.height;
      each[i] = numbers_of(in, image / pairs, image % pairs, i % in.height);
    }
  });
  for (int64_t b = 0; b < in.clips; ++b) {
    sum[b] = total[b] = 0;
    for (int64_t i = b * rows; i < (b + 1) * rows; ++i) {
      sum[b] += each[i].sum;
      total[b] += each[i].total;
    }
  }
}

template <typename T>
void scene_flow_backward_cpu(const SceneFlowInputs<T>& in, const double* scale, T* d_depth, T* d_motion) {
  const int64_t pairs = in.frames - 1, plane = in.height * in.width;
  torch::stable::parallel_for(0, in.clips * in.frames * in.height, kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / in.height, row = i % in.height, b = image / in.frames, t = image % in.frames;
      T* depth = d_depth + image * plane;
      if (t == pairs) {
        std::fill(depth + row * in.width, depth + (row + 1) * in.width, T(0));
        continue;
      }
      T* d_u = d_motion + (3 * b * pairs + t) * plane;
      gradients_of(in, b, t, row, scale[b], depth, d_u, d_u + pairs * plane, d_u + 2 * pairs * plane);
    }
  });
}

template void scene_flow_cpu(const SceneFlowInputs<float>&, double*, double*);
template void scene_flow_cpu(const SceneFlowInputs<double>&, double*, double*);
template void scene_flow_backward_cpu(const SceneFlowInputs<float>&, const double*, float*, float*);
template void scene_flow_backward_cpu(const SceneFlowInputs<double>&, const double*, double*, double*);

}  // namespace phys4d
