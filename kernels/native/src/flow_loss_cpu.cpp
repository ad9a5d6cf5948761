// One task per block of pixels, in loops that the compiler turns into vectors; sums are kept per block and added up in
// order: neither threads nor instruction sets change a bit.
#include "flow_loss.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <vector>

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define INSTRUCTION_SETS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define INSTRUCTION_SETS
#endif
#define ALWAYS inline __attribute__((always_inline))

namespace phys4d {
namespace {

constexpr int64_t kBlock = 4096;
constexpr int64_t kChunk = 256;
constexpr int64_t kLanes = 16;

struct Numbers {
  double sum, total;
};

// The error of pixels [at, at + n), summed over channels; for an end point its square. 0 outside the mask.
template <typename T>
ALWAYS void errors(const FlowInputs<T>& in, int64_t clip, int64_t at, int64_t n, T* error) {
  const uint8_t* valid = in.valid + clip * in.pixels + at;
  std::fill(error, error + n, T(0));
  for (int64_t c = 0; c < in.channels; ++c) {
    const T* p = in.predicted.data + clip * in.predicted.clip + c * in.predicted.channel + at;
    const T* t = in.target.data + clip * in.target.clip + c * in.target.channel + at;
    if (in.loss == FlowLoss::kL1) {
      for (int64_t i = 0; i < n; ++i) error[i] += valid[i] != 0 ? std::abs(p[i] - t[i]) : T(0);
    } else if (in.loss == FlowLoss::kCharbonnier) {
      for (int64_t i = 0; i < n; ++i) {
        const T d = valid[i] != 0 ? p[i] - t[i] : T(0);
        error[i] += std::sqrt(d * d + T(1e-6)) - T(1e-3);
      }
    } else {
      for (int64_t i = 0; i < n; ++i) {
        const T d = valid[i] != 0 ? p[i] - t[i] : T(0);
        error[i] += d * d;
      }
    }
  }
  if (in.loss == FlowLoss::kEndPoint) {
    for (int64_t i = 0; i < n; ++i) error[i] = std::sqrt(error[i]);
  }
}

template <typename T>
ALWAYS void weights(const FlowInputs<T>& in, int64_t clip, int64_t at, int64_t n, T* weight) {
  const uint8_t* valid = in.valid + clip * in.pixels + at;
  if (in.weight == nullptr) {
    for (int64_t i = 0; i < n; ++i) weight[i] = T(valid[i]);
  } else {
    const T* given = in.weight + clip * in.pixels + at;
    for (int64_t i = 0; i < n; ++i) weight[i] = valid[i] != 0 ? given[i] : T(0);
  }
}

template <typename T>
ALWAYS Numbers block_numbers(const FlowInputs<T>& in, int64_t clip, int64_t begin, int64_t end) {
  T error[kChunk], weight[kChunk];
  double sum[kLanes] = {}, total[kLanes] = {};
  for (int64_t at = begin; at < end; at += kChunk) {
    const int64_t n = std::min(kChunk, end - at);
    errors(in, clip, at, n, error);
    weights(in, clip, at, n, weight);
    for (int64_t i = n; i < kChunk; ++i) error[i] = weight[i] = T(0);
    for (int64_t i = 0; i < kChunk; i += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        sum[lane] += double(error[i + lane]) * double(weight[i + lane]);
        total[lane] += double(weight[i + lane]);
      }
    }
  }
  Numbers found{0, 0};
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    found.sum += sum[lane];
    found.total += total[lane];
  }
  return found;
}

template <typename T>
ALWAYS void block_gradient(const FlowInputs<T>& in, int64_t clip, int64_t begin, int64_t end, double scale, T* out) {
  T error[kChunk], weight[kChunk];
  const T by = T(scale);
  for (int64_t at = begin; at < end; at += kChunk) {
    const int64_t n = std::min(kChunk, end - at);
    const uint8_t* valid = in.valid + clip * in.pixels + at;
    weights(in, clip, at, n, weight);
    if (in.loss == FlowLoss::kEndPoint) {
      errors(in, clip, at, n, error);
      for (int64_t i = 0; i < n; ++i) weight[i] = error[i] > 0 ? weight[i] / error[i] : T(0);
    }
    for (int64_t c = 0; c < in.channels; ++c) {
      const T* p = in.predicted.data + clip * in.predicted.clip + c * in.predicted.channel + at;
      const T* t = in.target.data + clip * in.target.clip + c * in.target.channel + at;
      T* d_p = out + (clip * in.channels + c) * in.pixels + at;
      for (int64_t i = 0; i < n; ++i) {
        const T d = valid[i] != 0 ? p[i] - t[i] : T(0);
        T slope = d;
        if (in.loss == FlowLoss::kL1) slope = d > 0 ? T(1) : (d < 0 ? T(-1) : d);
        if (in.loss == FlowLoss::kCharbonnier) slope = d / std::sqrt(d * d + T(1e-6));
        d_p[i] = by * weight[i] * slope;
      }
    }
  }
}

INSTRUCTION_SETS Numbers numbers_of(const FlowInputs<float>& in, int64_t clip, int64_t begin, int64_t end) {
  return block_numbers(in, clip, begin, end);
}
INSTRUCTION_SETS Numbers numbers_of(const FlowInputs<double>& in, int64_t clip, int64_t begin, int64_t end) {
  return block_numbers(in, clip, begin, end);
}
INSTRUCTION_SETS void gradient_of(const FlowInputs<float>& in, int64_t clip, int64_t begin, int64_t end, double scale,
                                  float* out) {
  block_gradient(in, clip, begin, end, scale, out);
}
INSTRUCTION_SETS void gradient_of(const FlowInputs<double>& in, int64_t clip, int64_t begin, int64_t end, double scale,
                                  double* out) {
  block_gradient(in, clip, begin, end, scale, out);
}

}  // namespace

template <typename T>
void flow_loss_cpu(const FlowInputs<T>& in, double* sum, double* total) {
  const int64_t blocks = (in.pixels + kBlock - 1) / kBlock;
  std::vector<Numbers> each(static_cast<size_t>(in.clips * blocks));
  torch::stable::parallel_for(0, in.clips * blocks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % blocks * kBlock;
      each[i] = numbers_of(in, i / blocks, first, std::min(first + kBlock, in.pixels));
    }
  });
  for (int64_t b = 0; b < in.clips; ++b) {
    sum[b] = total[b] = 0;
    for (int64_t i = b * blocks; i < (b + 1) * blocks; ++i) {
      sum[b] += each[i].sum;
      total[b] += each[i].total;
    }
  }
}

template <typename T>
void flow_loss_backward_cpu(const FlowInputs<T>& in, const double* scale, T* d_predicted) {
  const int64_t blocks = (in.pixels + kBlock - 1) / kBlock;
  torch::stable::parallel_for(0, in.clips * blocks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t clip = i / blocks, first = i % blocks * kBlock;
      gradient_of(in, clip, first, std::min(first + kBlock, in.pixels), scale[clip], d_predicted);
    }
  });
}

template void flow_loss_cpu(const FlowInputs<float>&, double*, double*);
template void flow_loss_cpu(const FlowInputs<double>&, double*, double*);
template void flow_loss_backward_cpu(const FlowInputs<float>&, const double*, float*);
template void flow_loss_backward_cpu(const FlowInputs<double>&, const double*, double*);

}  // namespace phys4d
