// Pixels are worked on in chunks of a row, in loops over plain arrays that the compiler turns into vectors. A frame is
// scattered by one task in raster order: neither threads nor instruction sets change a bit.
#include "flow_warp.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>

#include "instruction_sets.h"

namespace phys4d {
namespace {

constexpr int kChunk = 256;
constexpr int64_t kRowsPerTask = 16;

template <typename T>
struct Axis {  // weights of two neighbours, their slopes, and whether flow has a gradient along this axis
  T near[kChunk], far[kChunk], near_slope[kChunk], far_slope[kChunk], free[kChunk];
};

template <typename T>
struct Chunk {  // neighbouring pixels of one row
  Axis<T> u, v;
  T weight[4][kChunk], counts[4][kChunk], taps[2][2 * kChunk];
  int32_t first[kChunk], used[kChunk], inside[kChunk];
};

template <typename T>
ALWAYS T clamped(T x, T last) {
  return x < 0 ? T(0) : (x > last ? last : x);
}

// Index of the first of two neighbours of a position in (-1, size), and what an Axis tells of it.
template <typename T>
ALWAYS int neighbours(T position, int size, int i, Axis<T>& axis) {
  const T last = T(size - 1);
  // Landing exactly on the last pixel centre belongs to the cell before it, so that both neighbours exist.
  // No std::min: it compares in memory, which keeps this from becoming vectors.
  const int most = size > 1 ? size - 2 : 0, cell = static_cast<int>(position), first = cell < most ? cell : most;
  const T x = position - T(first);
  const bool before = position < 0, after = position > last;
  axis.near[i] = before ? T(1) + position : (after ? T(0) : T(1) - x);
  axis.far[i] = before ? T(0) : (after ? T(size) - position : x);
  axis.near_slope[i] = before ? T(1) : (after ? T(0) : T(-1));
  axis.far_slope[i] = before ? T(0) : (after ? T(-1) : T(1));
  return first;
}

// Only pixels whose label is near the wanted one count, and weights are divided by their sum.
template <typename T>
ALWAYS void select(const T* labels, const T* wanted, T tolerance, int right, int below, int n, Chunk<T>& c) {
  const int offset[4] = {0, right, below, below + right};
  for (int k = 0; k < 4; ++k) {
    for (int i = 0; i < n; ++i) {
      const T gap = std::abs(labels[c.first[i] + offset[k]] - wanted[i]);
      c.counts[k][i] = gap <= tolerance * wanted[i] ? T(1) : T(0);
    }
    for (int i = 0; i < n; ++i) c.weight[k][i] *= c.counts[k][i];
  }
  for (int i = 0; i < n; ++i) {
    const T total = c.weight[0][i] + c.weight[1][i] + c.weight[2][i] + c.weight[3][i];
    const bool used = (c.used[i] != 0) & (total > 0);
    const T share = used ? T(1) / total : T(0);
    c.used[i] = c.inside[i] = used ? 1 : 0;
    for (int k = 0; k < 4; ++k) c.weight[k][i] *= share;
    c.u.near[i] *= share, c.u.far[i] *= share;  // as they appear in the slopes: each holds one share
    c.v.near[i] *= share, c.v.far[i] *= share;
  }
}

// Where the pixels [begin, begin + n) of a row read.
template <typename T, bool kClamp>
ALWAYS void land_by(const FlowWarpInputs<T>& in, int64_t b, int64_t t, int64_t row, int64_t begin, int n, Chunk<T>& c) {
  const int width = static_cast<int>(in.width), height = static_cast<int>(in.height);
  const T last_u = T(width - 1), last_v = T(height - 1), here_v = T(row);
  const int64_t at = row * in.width + begin;
  const T *du = in.flow.at(b, 0, t) + at, *dv = in.flow.at(b, 1, t) + at;
  for (int i = 0; i < n; ++i) {  // int64_t would keep it from becoming vectors
    T u = T(static_cast<int>(begin) + i) + du[i], v = here_v + dv[i];
    const bool free_u = (u >= 0) & (u <= last_u), free_v = (v >= 0) & (v <= last_v);
    if constexpr (kClamp) {
      c.u.free[i] = free_u ? T(1) : T(0);
      c.v.free[i] = free_v ? T(1) : T(0);
      u = clamped(u, last_u);
      v = clamped(v, last_v);
    } else {
      c.u.free[i] = c.v.free[i] = T(1);
    }
    const bool used = (u > -1) & (u < T(width)) & (v > -1) & (v < T(height));
    u = used ? u : T(0);
    v = used ? v : T(0);
    const int left = neighbours(u, width, i, c.u), top = neighbours(v, height, i, c.v);
    c.first[i] = top * width + left;
    c.used[i] = used ? 1 : 0;
    c.inside[i] = free_u & free_v ? 1 : 0;
    c.weight[0][i] = c.u.near[i] * c.v.near[i];
    c.weight[1][i] = c.u.far[i] * c.v.near[i];
    c.weight[2][i] = c.u.near[i] * c.v.far[i];
    c.weight[3][i] = c.u.far[i] * c.v.far[i];
  }
  if (in.labels == nullptr) return;
  const int64_t plane = in.height * in.width, image = (b * in.times + t) * plane;
  select(in.labels + image, in.wanted + image + at, T(in.tolerance), width > 1 ? 1 : 0, height > 1 ? width : 0, n, c);
}

template <typename T>
ALWAYS void land(const FlowWarpInputs<T>& in, int64_t b, int64_t t, int64_t row, int64_t begin, int n, Chunk<T>& c) {
  in.clamp ? land_by<T, true>(in, b, t, row, begin, n, c) : land_by<T, false>(in, b, t, row, begin, n, c);
}

// Two neighbours at once, as plain loads: gathering four vectors takes several times as long.
template <typename T>
ALWAYS void read(const T* plane, int right, int below, bool labelled, int n, Chunk<T>& c) {
  struct Two {
    T left, right;
  };
  if (right != 0) {
    for (int i = 0; i < n; ++i) {
      __builtin_memcpy(c.taps[0] + 2 * i, plane + c.first[i], sizeof(Two));
      __builtin_memcpy(c.taps[1] + 2 * i, plane + below + c.first[i], sizeof(Two));
    }
  } else {
    for (int i = 0; i < n; ++i) {
      c.taps[0][2 * i] = c.taps[0][2 * i + 1] = plane[c.first[i]];
      c.taps[1][2 * i] = c.taps[1][2 * i + 1] = plane[below + c.first[i]];
    }
  }
  if (!labelled) return;
  for (int k = 0; k < 4; ++k) {  // what does not count may be anything
    T* tap = c.taps[k / 2] + k % 2;
    for (int i = 0; i < n; ++i) tap[2 * i] = c.counts[k][i] != 0 ? tap[2 * i] : T(0);
  }
}

template <typename T>
ALWAYS void warp_row(const FlowWarpInputs<T>& in, int64_t b, int64_t t, int64_t row, T* warped, bool* inside) {
  const int right = in.width > 1 ? 1 : 0, below = in.height > 1 ? static_cast<int>(in.width) : 0;
  const int64_t plane = in.height * in.width;
  Chunk<T> c;
  for (int64_t begin = 0; begin < in.width; begin += kChunk) {
    const int n = static_cast<int>(std::min<int64_t>(kChunk, in.width - begin));
    land(in, b, t, row, begin, n, c);
    const int64_t at = row * in.width + begin;
    for (int i = 0; i < n; ++i) inside[(b * in.times + t) * plane + at + i] = c.inside[i] != 0;
    for (int64_t channel = 0; channel < in.channels; ++channel) {
      read(in.frames.at(b, channel, t), right, below, in.labels != nullptr, n, c);
      T* out = warped + ((b * in.channels + channel) * in.times + t) * plane + at;
      for (int i = 0; i < n; ++i) {
        const T upper = c.taps[0][2 * i] * c.weight[0][i] + c.taps[0][2 * i + 1] * c.weight[1][i];
        const T lower = c.taps[1][2 * i] * c.weight[2][i] + c.taps[1][2 * i + 1] * c.weight[3][i];
        out[i] = c.used[i] != 0 ? upper + lower : T(0);
      }
    }
  }
}

// The gradients of one row: that of flow is written, those of the frames are added.
template <typename T>
ALWAYS void row_gradients(const FlowWarpInputs<T>& in, const Video<T>& grad, int64_t b, int64_t t, int64_t row,
                          T* d_frames, T* d_flow) {
  const int right = in.width > 1 ? 1 : 0, below = in.height > 1 ? static_cast<int>(in.width) : 0;
  const int64_t plane = in.height * in.width;
  Chunk<T> c;
  T handed[kChunk], d_u[kChunk], d_v[kChunk], part[4][kChunk];
  for (int64_t begin = 0; begin < in.width; begin += kChunk) {
    const int n = static_cast<int>(std::min<int64_t>(kChunk, in.width - begin));
    land(in, b, t, row, begin, n, c);
    const int64_t at = row * in.width + begin;
    std::fill(d_u, d_u + n, T(0));
    std::fill(d_v, d_v + n, T(0));
    for (int64_t channel = 0; channel < in.channels; ++channel) {
      const T* g = grad.at(b, channel, t) + at;
      read(in.frames.at(b, channel, t), right, below, in.labels != nullptr, n, c);
      for (int i = 0; i < n; ++i) handed[i] = c.used[i] != 0 ? g[i] : T(0);
      if (in.labels != nullptr) {  // weights are divided by their sum, which changes with them
        for (int i = 0; i < n; ++i) {
          T* upper = c.taps[0] + 2 * i;
          T* lower = c.taps[1] + 2 * i;
          const T value = upper[0] * c.weight[0][i] + upper[1] * c.weight[1][i] + lower[0] * c.weight[2][i] +
                          lower[1] * c.weight[3][i];
          upper[0] = c.counts[0][i] * (upper[0] - value), upper[1] = c.counts[1][i] * (upper[1] - value);
          lower[0] = c.counts[2][i] * (lower[0] - value), lower[1] = c.counts[3][i] * (lower[1] - value);
        }
      }
      for (int i = 0; i < n; ++i) {
        const T p = c.taps[0][2 * i], q = c.taps[0][2 * i + 1], r = c.taps[1][2 * i], s = c.taps[1][2 * i + 1];
        const T nu = c.u.near_slope[i], fu = c.u.far_slope[i], nv = c.v.near_slope[i], fv = c.v.far_slope[i];
        const T along_u = c.v.near[i] * (nu * p + fu * q) + c.v.far[i] * (nu * r + fu * s);
        const T along_v = c.u.near[i] * (nv * p + fv * r) + c.u.far[i] * (nv * q + fv * s);
        d_u[i] += c.used[i] != 0 ? handed[i] * along_u : T(0);
        d_v[i] += c.used[i] != 0 ? handed[i] * along_v : T(0);
      }
      if (d_frames == nullptr) continue;
      for (int k = 0; k < 4; ++k) {
        for (int i = 0; i < n; ++i) part[k][i] = c.used[i] != 0 ? handed[i] * c.weight[k][i] : T(0);
      }
      T* base = d_frames + ((b * in.channels + channel) * in.times + t) * plane;
      for (int i = 0; i < n; ++i) {  // zeros are added too: no branch to guess
        T* target = base + c.first[i];
        target[0] += part[0][i];
        target[right] += part[1][i];
        target[below] += part[2][i];
        target[below + right] += part[3][i];
      }
    }
    T* out = d_flow + (2 * b * in.times + t) * plane + at;
    for (int i = 0; i < n; ++i) out[i] = c.u.free[i] != 0 ? d_u[i] : T(0);
    out += in.times * plane;
    for (int i = 0; i < n; ++i) out[i] = c.v.free[i] != 0 ? d_v[i] : T(0);
  }
}

INSTRUCTION_SETS void warp_of(const FlowWarpInputs<float>& in, int64_t b, int64_t t, int64_t row, float* warped,
                              bool* inside) {
  warp_row(in, b, t, row, warped, inside);
}
INSTRUCTION_SETS void warp_of(const FlowWarpInputs<double>& in, int64_t b, int64_t t, int64_t row, double* warped,
                              bool* inside) {
  warp_row(in, b, t, row, warped, inside);
}
INSTRUCTION_SETS void gradients_of(const FlowWarpInputs<float>& in, const Video<float>& grad, int64_t b, int64_t t,
                                   int64_t row, float* d_frames, float* d_flow) {
  row_gradients(in, grad, b, t, row, d_frames, d_flow);
}
INSTRUCTION_SETS void gradients_of(const FlowWarpInputs<double>& in, const Video<double>& grad, int64_t b, int64_t t,
                                   int64_t row, double* d_frames, double* d_flow) {
  row_gradients(in, grad, b, t, row, d_frames, d_flow);
}

}  // namespace

template <typename T>
void flow_warp_cpu(const FlowWarpInputs<T>& in, T* warped, bool* inside) {
  const int64_t rows = in.clips * in.times * in.height;
  torch::stable::parallel_for(0, rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t image = i / in.height;
      warp_of(in, image / in.times, image % in.times, i % in.height, warped, inside);
    }
  });
}

template <typename T>
void flow_warp_backward_cpu(const FlowWarpInputs<T>& in, const Video<T>& grad, T* d_frames, T* d_flow) {
  const int64_t plane = in.height * in.width;
  if (d_frames == nullptr) {  // nothing is scattered: rows are independent
    torch::stable::parallel_for(0, in.clips * in.times * in.height, kRowsPerTask, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t image = i / in.height;
        gradients_of(in, grad, image / in.times, image % in.times, i % in.height, d_frames, d_flow);
      }
    });
    return;
  }
  torch::stable::parallel_for(0, in.clips * in.times, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / in.times, t = i % in.times;
      for (int64_t channel = 0; channel < in.channels; ++channel) {
        T* target = d_frames + ((b * in.channels + channel) * in.times + t) * plane;
        std::fill(target, target + plane, T(0));
      }
      for (int64_t row = 0; row < in.height; ++row) gradients_of(in, grad, b, t, row, d_frames, d_flow);
    }
  });
}

template void flow_warp_cpu(const FlowWarpInputs<float>&, float*, bool*);
template void flow_warp_cpu(const FlowWarpInputs<double>&, double*, bool*);
template void flow_warp_backward_cpu(const FlowWarpInputs<float>&, const Video<float>&, float*, float*);
template void flow_warp_backward_cpu(const FlowWarpInputs<double>&, const Video<double>&, double*, double*);

}  // namespace phys4d
