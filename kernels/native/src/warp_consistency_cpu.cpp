// Over 300 lines: forward and backward of one operator, which share all of their helpers.
// Pixels are worked on in chunks of a row, in loops over plain arrays that the compiler turns into vectors. Sums are
// kept per row and added up in order, and a pair of frames is scattered by one task in raster order: neither threads
// nor instruction sets change a bit.
#include "warp_consistency.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "instruction_sets.h"

namespace phys4d {
namespace {

constexpr int kChunk = 256;
constexpr int kLanes = 16;  // partial sums side by side
constexpr int64_t kRowsPerTask = 16, kPairsPerTask = 4;

template <typename T>
struct Pair {  // one pair of frames
  const T *sampled, *base, *du, *dv, *dz, *weight;
  const uint8_t* visible;
};

template <typename T>
struct Chunk {  // neighbouring pixels of one row
  T x[kChunk], y[kChunk], corner[4][kChunk], sampled[kChunk], moved[kChunk], residual[kChunk], weight[kChunk];
  T free_u[kChunk], free_v[kChunk], value[kChunk], taps[2][2 * kChunk];
  int32_t first[kChunk], used[kChunk];
};

struct Numbers {  // per row
  double sum, total;
  int64_t used;
};

template <typename T>
Pair<T> pair_of(const WarpInputs<T>& in, int64_t b, int64_t t) {
  const bool back = in.truth.data != nullptr;
  return {in.depth.at(b, back ? t : t + 1), back ? in.truth.at(b, t + 1) : in.depth.at(b, t),
          in.du.at(b, t), in.dv.at(b, t), in.dz.at(b, t), in.weight.at(b, t),
          reinterpret_cast<const uint8_t*>(in.visible.at(b, t))};
}

// Where the pixels [begin, begin + n) of a row land and what they read there.
template <typename T, bool kClamp>
ALWAYS void land_by(const WarpInputs<T>& in, const Pair<T>& pair, int64_t row, int begin, int n, Chunk<T>& c) {
  const T sign = in.truth.data != nullptr ? T(-1) : T(1);
  const int width = static_cast<int>(in.width), height = static_cast<int>(in.height);
  const T last_u = T(width - 1), last_v = T(height - 1), here_v = T(row);
  const int most_left = std::max(width - 2, 0), most_top = std::max(height - 2, 0);
  const int right = width > 1 ? 1 : 0, below = height > 1 ? width : 0;
  const int64_t at = row * in.width + begin;
  const T *du = pair.du + at, *dv = pair.dv + at, *dz = pair.dz + at, *base = pair.base + at;
  if (pair.visible != nullptr) {
    for (int i = 0; i < n; ++i) c.used[i] = pair.visible[at + i];
  } else {
    std::fill(c.used, c.used + n, 1);
  }
  if (pair.weight != nullptr) {
    std::copy(pair.weight + at, pair.weight + at + n, c.weight);
  } else {
    std::fill(c.weight, c.weight + n, T(1));
  }
  for (int i = 0; i < n; ++i) {
    T u = T(begin + i) + sign * du[i], v = here_v + sign * dv[i];
    if constexpr (kClamp) {
      c.free_u[i] = (u < 0) | (u > last_u) ? T(0) : T(1);
      c.free_v[i] = (v < 0) | (v > last_v) ? T(0) : T(1);
      u = u < 0 ? T(0) : (u > last_u ? last_u : u);
      v = v < 0 ? T(0) : (v > last_v ? last_v : v);
    }
    const int32_t inside = (u >= 0) & (u <= last_u) & (v >= 0) & (v <= last_v);
    u = inside != 0 ? u : T(0);
    v = inside != 0 ? v : T(0);
    // Landing exactly on the last pixel centre belongs to the cell before it, so that four neighbours exist.
    const int left = std::min(static_cast<int>(u), most_left), top = std::min(static_cast<int>(v), most_top);
    c.x[i] = u - T(left);
    c.y[i] = v - T(top);
    c.first[i] = top * width + left;
    c.used[i] &= inside;
  }
  // Two neighbours at once, as plain loads: gathering four vectors takes several times as long.
  struct Two {
    T left, right;
  };
  if (right != 0) {
    const T *upper = pair.sampled, *lower = pair.sampled + below;
    for (int i = 0; i < n; ++i) {
      __builtin_memcpy(c.taps[0] + 2 * i, upper + c.first[i], sizeof(Two));
      __builtin_memcpy(c.taps[1] + 2 * i, lower + c.first[i], sizeof(Two));
    }
  } else {
    for (int i = 0; i < n; ++i) {
      c.taps[0][2 * i] = c.taps[0][2 * i + 1] = pair.sampled[c.first[i]];
      c.taps[1][2 * i] = c.taps[1][2 * i + 1] = pair.sampled[below + c.first[i]];
    }
  }
  for (int k = 0; k < 4; ++k) {
    const T* tap = c.taps[k / 2] + k % 2;
    T* corner = c.corner[k];
    for (int i = 0; i < n; ++i) corner[i] = tap[2 * i] > 0 ? T(1) / tap[2 * i] : T(0);
  }
  const T nearest = T(1 - in.z_test);
  const bool test = in.z_test >= 0;
  for (int i = 0; i < n; ++i) {
    const T x = c.x[i], y = c.y[i], rest_x = T(1) - x, rest_y = T(1) - y;
    const T a = rest_x * rest_y, b = x * rest_y, d = rest_x * y, e = x * y;
    const T p = c.corner[0][i], q = c.corner[1][i], r = c.corner[2][i], s = c.corner[3][i];
    const bool surface = ((p > 0) | (a == 0)) & ((q > 0) | (b == 0)) & ((r > 0) | (d == 0)) & ((s > 0) | (e == 0));
    const T sampled = T(1) / (p * a + q * b + r * d + s * e), moved = base[i] + sign * dz[i];
    const bool hidden = test & (sampled < moved * nearest);
    const bool used = (c.used[i] != 0) & surface & !hidden;
    c.used[i] = used ? 1 : 0;
    c.sampled[i] = used ? sampled : T(0);
    c.moved[i] = used ? moved : T(1);
    c.residual[i] = used ? sampled - moved : T(0);
    c.weight[i] = used ? c.weight[i] : T(0);
  }
}

template <typename T>
ALWAYS void land(const WarpInputs<T>& in, const Pair<T>& pair, int64_t row, int begin, int n, Chunk<T>& c) {
  if (in.clamp) {
    land_by<T, true>(in, pair, row, begin, n, c);
  } else {
    land_by<T, false>(in, pair, row, begin, n, c);
    std::fill(c.free_u, c.free_u + n, T(1));
    std::fill(c.free_v, c.free_v + n, T(1));
  }
}

template <typename T>
ALWAYS void errors(WarpLoss loss, int n, Chunk<T>& c) {
  const T *r = c.residual, *moved = c.moved;
  if (loss == WarpLoss::kL1) {
    for (int i = 0; i < n; ++i) c.value[i] = std::abs(r[i]);
  } else if (loss == WarpLoss::kCharbonnier) {
    for (int i = 0; i < n; ++i) c.value[i] = std::sqrt(r[i] * r[i] + T(1e-6)) - T(1e-3);
  } else if (loss == WarpLoss::kRelative) {
    for (int i = 0; i < n; ++i) {
      const T size = std::abs(moved[i]);
      c.value[i] = std::abs(r[i]) / (size < T(1e-3) ? T(1e-3) : size);
    }
  } else {
    for (int i = 0; i < n; ++i) c.value[i] = r[i] * r[i];
  }
}

// Slope of the error by the residual; 0 where an absolute value has none.
template <typename T>
ALWAYS void slopes(WarpLoss loss, int n, Chunk<T>& c) {
  const T *r = c.residual, *moved = c.moved;
  if (loss == WarpLoss::kL1) {
    for (int i = 0; i < n; ++i) c.value[i] = r[i] > 0 ? T(1) : (r[i] < 0 ? T(-1) : r[i]);
  } else if (loss == WarpLoss::kCharbonnier) {
    for (int i = 0; i < n; ++i) c.value[i] = r[i] / std::sqrt(r[i] * r[i] + T(1e-6));
  } else if (loss == WarpLoss::kRelative) {
    for (int i = 0; i < n; ++i) {
      const T size = std::abs(moved[i]), sign = r[i] > 0 ? T(1) : (r[i] < 0 ? T(-1) : r[i]);
      c.value[i] = sign / (size < T(1e-3) ? T(1e-3) : size);
    }
  } else {
    for (int i = 0; i < n; ++i) c.value[i] = 2 * r[i];
  }
}

template <typename T>
ALWAYS Numbers row_numbers(const WarpInputs<T>& in, const Pair<T>& pair, int64_t row) {
  Chunk<T> c;
  double sum[kLanes] = {}, total[kLanes] = {};
  Numbers found{0, 0, 0};
  for (int64_t begin = 0; begin < in.width; begin += kChunk) {
    const int n = static_cast<int>(std::min<int64_t>(kChunk, in.width - begin));
    land(in, pair, row, static_cast<int>(begin), n, c);
    errors(in.loss, n, c);
    int64_t used = 0;
    for (int i = 0; i < n; ++i) used += c.used[i];
    found.used += used;
    for (int i = n; i < (n + kLanes - 1) / kLanes * kLanes; ++i) c.value[i] = c.weight[i] = T(0);
    for (int i = 0; i < n; i += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const double weight = c.weight[i + lane];
        sum[lane] += double(c.value[i + lane]) * weight;
        total[lane] += weight;
      }
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    found.sum += sum[lane];
    found.total += total[lane];
  }
  return found;
}

// The gradients of one row: those of motion are written, those of the frame sampled are added.
template <typename T>
ALWAYS void row_gradients(const WarpInputs<T>& in, const Pair<T>& pair, int64_t row, double scale, T* d_sampled,
                          T* d_u, T* d_v, T* d_z) {
  const T sign = in.truth.data != nullptr ? T(-1) : T(1);
  const int right = in.width > 1 ? 1 : 0, below = in.height > 1 ? static_cast<int>(in.width) : 0;
  Chunk<T> c;
  T part[4][kChunk];
  for (int64_t begin = 0; begin < in.width; begin += kChunk) {
    const int n = static_cast<int>(std::min<int64_t>(kChunk, in.width - begin));
    land(in, pair, row, static_cast<int>(begin), n, c);
    slopes(in.loss, n, c);
    const int64_t at = row * in.width + begin;
    const T by = T(scale);
    for (int i = 0; i < n; ++i) {
      const bool used = c.used[i] != 0;
      const T k = by * c.weight[i] * c.value[i], x = c.x[i], y = c.y[i], s = c.sampled[i];
      const T p = s * c.corner[0][i], q = s * c.corner[1][i], r = s * c.corner[2][i], o = s * c.corner[3][i];
      const T along_u = (T(1) - y) * (q - p) + y * (o - r), along_v = (T(1) - x) * (r - p) + x * (o - q);
      const T m = -sign * k * s;
      d_u[at + i] = used ? m * along_u * c.free_u[i] : T(0);
      d_v[at + i] = used ? m * along_v * c.free_v[i] : T(0);
      d_z[at + i] = used ? -sign * k : T(0);
      part[0][i] = used ? k * (p * p * ((T(1) - x) * (T(1) - y))) : T(0);
      part[1][i] = used ? k * (q * q * (x * (T(1) - y))) : T(0);
      part[2][i] = used ? k * (r * r * ((T(1) - x) * y)) : T(0);
      part[3][i] = used ? k * (o * o * (x * y)) : T(0);
    }
    for (int i = 0; i < n; ++i) {  // zeros are added too: no branch to guess
      T* target = d_sampled + c.first[i];
      target[0] += part[0][i];
      target[right] += part[1][i];
      target[below] += part[2][i];
      target[below + right] += part[3][i];
    }
  }
}

INSTRUCTION_SETS Numbers numbers_of(const WarpInputs<float>& in, const Pair<float>& pair, int64_t row) {
  return row_numbers(in, pair, row);
}
INSTRUCTION_SETS Numbers numbers_of(const WarpInputs<double>& in, const Pair<double>& pair, int64_t row) {
  return row_numbers(in, pair, row);
}
INSTRUCTION_SETS void gradients_of(const WarpInputs<float>& in, const Pair<float>& pair, int64_t row, double scale,
                                   float* d_sampled, float* d_u, float* d_v, float* d_z) {
  row_gradients(in, pair, row, scale, d_sampled, d_u, d_v, d_z);
}
INSTRUCTION_SETS void gradients_of(const WarpInputs<double>& in, const Pair<double>& pair, int64_t row, double scale,
                                   double* d_sampled, double* d_u, double* d_v, double* d_z) {
  row_gradients(in, pair, row, scale, d_sampled, d_u, d_v, d_z);
}

}  // namespace

template <typename T>
void warp_consistency_cpu(const WarpInputs<T>& in, double* sum, double* total, int64_t* used) {
  const int64_t pairs = in.frames - 1, rows = pairs * in.height;
  std::vector<Numbers> each(static_cast<size_t>(in.clips * rows));
  torch::stable::parallel_for(0, in.clips * rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / in.height;
      each[i] = numbers_of(in, pair_of(in, image / pairs, image % pairs), i % in.height);
    }
  });
  for (int64_t b = 0; b < in.clips; ++b) {
    sum[b] = total[b] = 0;
    used[b] = 0;
    for (int64_t i = b * rows; i < (b + 1) * rows; ++i) {
      sum[b] += each[i].sum;
      total[b] += each[i].total;
      used[b] += each[i].used;
    }
  }
}

template <typename T>
void warp_consistency_backward_cpu(const WarpInputs<T>& in, const double* scale, T* d_depth, T* d_motion) {
  const int64_t pairs = in.frames - 1, plane = in.height * in.width;
  const bool back = in.truth.data != nullptr;
  // Every pair fills the frame that it samples; one frame of a clip is sampled by none.
  for (int64_t b = 0; b < in.clips; ++b) {
    T* alone = d_depth + (b * in.frames + (back ? pairs : 0)) * plane;
    std::fill(alone, alone + plane, T(0));
  }
  // Moved depth is depth at t plus dz, so that both have the same gradient. It is added once the pair before has
  // filled frame t: at once within a task, and at the end for the first frame of each.
  const auto add_moved = [&](int64_t b, int64_t t) {
    const T* d_z = d_motion + ((3 * b + 2) * pairs + t) * plane;
    T* d_base = d_depth + (b * in.frames + t) * plane;
    for (int64_t j = 0; j < plane; ++j) d_base[j] += d_z[j];
  };
  const int64_t tasks = (pairs + kPairsPerTask - 1) / kPairsPerTask;
  torch::stable::parallel_for(0, in.clips * tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / tasks, start = i % tasks * kPairsPerTask;
      for (int64_t t = start; t < std::min(start + kPairsPerTask, pairs); ++t) {
        T* d_sampled = d_depth + (b * in.frames + (back ? t : t + 1)) * plane;
        T* d_u = d_motion + (3 * b * pairs + t) * plane;
        std::fill(d_sampled, d_sampled + plane, T(0));
        const Pair<T> pair = pair_of(in, b, t);
        for (int64_t row = 0; row < in.height; ++row) {
          gradients_of(in, pair, row, scale[b], d_sampled, d_u, d_u + pairs * plane, d_u + 2 * pairs * plane);
        }
        if (!back && t > start) add_moved(b, t);
      }
    }
  });
  if (back) return;
  torch::stable::parallel_for(0, in.clips * tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) add_moved(i / tasks, i % tasks * kPairsPerTask);
  });
}

template void warp_consistency_cpu(const WarpInputs<float>&, double*, double*, int64_t*);
template void warp_consistency_cpu(const WarpInputs<double>&, double*, double*, int64_t*);
template void warp_consistency_backward_cpu(const WarpInputs<float>&, const double*, float*, float*);
template void warp_consistency_backward_cpu(const WarpInputs<double>&, const double*, double*, double*);

}  // namespace phys4d
