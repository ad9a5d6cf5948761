// One task per frame: the log ratio of the frame stays in a scratch plane, from which differences at all scales are
// taken; sums are in double, in a fixed order. Neither threads nor instruction sets change a bit.
#include "depth_losses.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "instruction_sets.h"
#include "logarithm.h"

namespace phys4d {
namespace {

constexpr int kLanes = 16;

template <typename F>
ALWAYS double sum_of(int64_t n, F value) {
  double lane[kLanes] = {}, total = 0;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) lane[l] += value(i + l);
  }
  for (; i < n; ++i) total += value(i);
  for (int l = 0; l < kLanes; ++l) total += lane[l];
  return total;
}

template <typename T>
struct Scratch {  // one frame and its coarser copies
  std::vector<T> p, d, w, ratio, gradient;
  std::vector<uint8_t> valid;
  explicit Scratch(int64_t plane) : p(plane), d(plane), w(plane), ratio(plane), gradient(plane), valid(plane) {}
};

// Invalid pixels become weight 0 and ratio 1, whatever they hold.
template <typename T>
ALWAYS void read(const DepthInputs<T>& in, int64_t frame, Scratch<T>& s) {
  const int64_t plane = in.height * in.width;
  const T *predicted = in.predicted + frame * plane, *target = in.target + frame * plane;
  const uint8_t* valid = in.valid + frame * plane;
  T *p = s.p.data(), *d = s.d.data(), *w = s.w.data(), *ratio = s.ratio.data();
  for (int64_t i = 0; i < plane; ++i) {
    p[i] = valid[i] != 0 ? predicted[i] : T(1);
    d[i] = valid[i] != 0 ? target[i] : T(1);
  }
  if (in.weight == nullptr) {
    for (int64_t i = 0; i < plane; ++i) w[i] = T(valid[i] != 0);
  } else {
    const T* weight = in.weight + frame * plane;
    for (int64_t i = 0; i < plane; ++i) w[i] = valid[i] != 0 ? weight[i] : T(0);
  }
  if (in.wanted & (kLogL1 | kSilog | kGradient)) {
    for (int64_t i = 0; i < plane; ++i) ratio[i] = logarithm(p[i] / d[i]);
  }
}

// Every second row and column of values and mask, in place.
template <typename T>
ALWAYS void halve(T* values, uint8_t* valid, int64_t& height, int64_t& width) {
  const int64_t rows = (height + 1) / 2, columns = (width + 1) / 2;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      values[r * columns + c] = values[2 * r * width + 2 * c];
      valid[r * columns + c] = valid[2 * r * width + 2 * c];
    }
  }
  height = rows;
  width = columns;
}

// The sum of |a pixel - its neighbour| over n pixels of a row, and how many both are real; gaps [n] is scratch.
template <typename T>
ALWAYS double sum_of_gaps(const T* values, const uint8_t* real, int64_t n, int64_t step, T* gaps, int64_t& pairs) {
  for (int64_t i = 0; i < n; ++i) {
    gaps[i] = real[i] & real[i + step] ? std::abs(values[i + step] - values[i]) : T(0);
  }
  for (int64_t i = 0; i < n; ++i) pairs += real[i] & real[i + step];
  return sum_of(n, [&](int64_t i) { return double(gaps[i]); });
}

template <typename T>
ALWAYS void differences(const DepthInputs<T>& in, int64_t frame, Scratch<T>& s, DepthSums& out) {
  int64_t height = in.height, width = in.width;
  T *r = s.ratio.data(), *gaps = s.p.data();  // p has had its sums
  uint8_t* m = s.valid.data();
  std::copy(in.valid + frame * height * width, in.valid + (frame + 1) * height * width, m);
  for (int k = 0; k < in.scales; ++k) {
    if (k > 0) halve(r, m, height, width);
    double total = 0;
    int64_t pairs = 0;
    for (int64_t row = 0; row < height; ++row) {
      const T* here = r + row * width;
      const uint8_t* real = m + row * width;
      total += sum_of_gaps(here, real, width - 1, 1, gaps, pairs);
      if (row + 1 < height) total += sum_of_gaps(here, real, width, width, gaps, pairs);
    }
    out.differences[k] = total;
    out.pairs[k] = double(pairs);
  }
}

template <typename T>
ALWAYS DepthSums frame_sums(const DepthInputs<T>& in, int64_t frame, Scratch<T>& s) {
  const int64_t plane = in.height * in.width;
  read(in, frame, s);
  const T *p = s.p.data(), *d = s.d.data(), *w = s.w.data(), *g = s.ratio.data();
  DepthSums out{};
  out.weight = sum_of(plane, [&](int64_t i) { return double(w[i]); });
  const double share = out.weight > 0 ? 1 / out.weight : 0;
  if (in.wanted & kLogL1) out.log_abs = sum_of(plane, [&](int64_t i) { return double(w[i]) * double(std::abs(g[i])); });
  if (in.wanted & kSilog) {
    const double mean = share * sum_of(plane, [&](int64_t i) { return double(w[i]) * double(g[i]); });
    out.log_mean = mean;
    out.log_square = sum_of(plane, [&](int64_t i) { return double(w[i]) * (double(g[i]) - mean) * (double(g[i]) - mean); });
  }
  if (in.wanted & kScaleShift) {
    const double a = share * sum_of(plane, [&](int64_t i) { return double(w[i]) * double(p[i]); });
    const double b = share * sum_of(plane, [&](int64_t i) { return double(w[i]) * double(d[i]); });
    out.mean_p = a;
    out.mean_d = b;
    out.pp = sum_of(plane, [&](int64_t i) { return double(w[i]) * (double(p[i]) - a) * (double(p[i]) - a); });
    out.pd = sum_of(plane, [&](int64_t i) { return double(w[i]) * (double(p[i]) - a) * (double(d[i]) - b); });
    out.dd = sum_of(plane, [&](int64_t i) { return double(w[i]) * (double(d[i]) - b) * (double(d[i]) - b); });
  }
  if (in.wanted & kGradient) differences(in, frame, s, out);
  return out;
}

template <typename T>
ALWAYS T sign_of(T x) {
  return x > 0 ? T(1) : (x < 0 ? T(-1) : x);
}

// Slope of |a pixel - its neighbour| by the pixel.
template <typename T>
ALWAYS T toward(const T* values, const uint8_t* real, int64_t i, int64_t step) {
  return real[i] & real[i + step] ? sign_of(values[i] - values[i + step]) : T(0);
}

// Adds to `gradient` [in.height, in.width] what the differences at every scale give.
template <typename T>
ALWAYS void difference_gradients(const DepthInputs<T>& in, int64_t frame, const DepthSlopes& slopes, Scratch<T>& s) {
  int64_t height = in.height, width = in.width;
  T *r = s.ratio.data(), *line = s.p.data();  // p is read again from the input
  uint8_t* m = s.valid.data();
  std::copy(in.valid + frame * height * width, in.valid + (frame + 1) * height * width, m);
  for (int k = 0; k < in.scales; ++k) {
    if (k > 0) halve(r, m, height, width);
    const T by = T(slopes.differences[k]);
    for (int64_t row = 0; row < height; ++row) {
      const T* here = r + row * width;
      const uint8_t* real = m + row * width;
      std::fill(line, line + width, T(0));
      for (int64_t i = 0; i + 1 < width; ++i) line[i] += toward(here, real, i, 1);
      for (int64_t i = 1; i < width; ++i) line[i] += toward(here, real, i, -1);
      if (row + 1 < height) {
        for (int64_t i = 0; i < width; ++i) line[i] += toward(here, real, i, width);
      }
      if (row > 0) {
        for (int64_t i = 0; i < width; ++i) line[i] += toward(here, real, i, -width);
      }
      T* target = s.gradient.data() + ((row * in.width) << k);
      for (int64_t i = 0; i < width; ++i) target[i << k] += by * line[i];
    }
  }
}

template <typename T>
ALWAYS void frame_gradient(const DepthInputs<T>& in, int64_t frame, const DepthSlopes& by, Scratch<T>& s, T* out) {
  const int64_t plane = in.height * in.width;
  read(in, frame, s);
  const T *d = s.d.data(), *w = s.w.data();
  T *g = s.ratio.data(), *gradient = s.gradient.data();
  const T absolute = T(by.log_abs), linear = T(by.log_linear), constant = T(by.log_constant);
  if (in.wanted & (kLogL1 | kSilog)) {
    for (int64_t i = 0; i < plane; ++i) gradient[i] = w[i] * (absolute * sign_of(g[i]) + (linear * g[i] + constant));
  } else {
    std::fill(gradient, gradient + plane, T(0));
  }
  if (in.wanted & kGradient) difference_gradients(in, frame, by, s);
  const T* predicted = in.predicted + frame * plane;
  const uint8_t* valid = in.valid + frame * plane;
  const T slope = T(by.residual), scale = T(by.scale), shift = T(by.shift);
  for (int64_t i = 0; i < plane; ++i) {
    const T p = valid[i] != 0 ? predicted[i] : T(1);
    const T residual = (in.wanted & kScaleShift) ? slope * w[i] * (scale * p + shift - d[i]) : T(0);
    out[i] = valid[i] != 0 ? gradient[i] / p + residual : T(0);
  }
}

INSTRUCTION_SETS DepthSums sums_of(const DepthInputs<float>& in, int64_t frame, Scratch<float>& s) {
  return frame_sums(in, frame, s);
}
INSTRUCTION_SETS DepthSums sums_of(const DepthInputs<double>& in, int64_t frame, Scratch<double>& s) {
  return frame_sums(in, frame, s);
}
INSTRUCTION_SETS void gradient_of(const DepthInputs<float>& in, int64_t frame, const DepthSlopes& by, Scratch<float>& s,
                                  float* out) {
  frame_gradient(in, frame, by, s, out);
}
INSTRUCTION_SETS void gradient_of(const DepthInputs<double>& in, int64_t frame, const DepthSlopes& by,
                                  Scratch<double>& s, double* out) {
  frame_gradient(in, frame, by, s, out);
}

}  // namespace

template <typename T>
void depth_losses_cpu(const DepthInputs<T>& in, DepthSums* sums) {
  torch::stable::parallel_for(0, in.clips * in.frames, 1, [&](int64_t begin, int64_t end) {
    Scratch<T> scratch(in.height * in.width);
    for (int64_t frame = begin; frame < end; ++frame) sums[frame] = sums_of(in, frame, scratch);
  });
}

template <typename T>
void depth_losses_backward_cpu(const DepthInputs<T>& in, const DepthSlopes* slopes, T* d_predicted) {
  const int64_t plane = in.height * in.width;
  torch::stable::parallel_for(0, in.clips * in.frames, 1, [&](int64_t begin, int64_t end) {
    Scratch<T> scratch(plane);
    for (int64_t frame = begin; frame < end; ++frame) {
      gradient_of(in, frame, slopes[frame], scratch, d_predicted + frame * plane);
    }
  });
}

template void depth_losses_cpu(const DepthInputs<float>&, DepthSums*);
template void depth_losses_cpu(const DepthInputs<double>&, DepthSums*);
template void depth_losses_backward_cpu(const DepthInputs<float>&, const DepthSlopes*, float*);
template void depth_losses_backward_cpu(const DepthInputs<double>&, const DepthSlopes*, double*);

}  // namespace phys4d
