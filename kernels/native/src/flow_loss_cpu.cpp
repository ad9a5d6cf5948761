// One task per block of pixels, in loops that the compiler turns into vectors; sums are kept per block and added up in
// order: neither threads nor instruction sets change a bit.
#include "flow_loss.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "exponential.h"
#include "instruction_sets.h"
#include "logarithm.h"

namespace phys4d {
namespace {

constexpr int64_t kBlock = 4096;
constexpr int64_t kChunk = 256;
constexpr int64_t kLanes = 16;

struct Numbers {
  double sum, total;
};

// What a pixel's confidence says about its channels: with d a channel's distance, the logarithms of the two shares of
// the likelihood are ordinary - d and doubtful - d * inverse, but for ln 2.
template <typename T>
struct Mixture {
  T ordinary[kChunk], doubtful[kChunk], inverse[kChunk], share[kChunk];
};

template <typename T>
ALWAYS void mixture(const FlowInputs<T>& in, int64_t clip, int64_t at, int64_t n, Mixture<T>& m) {
  const uint8_t* valid = in.valid + clip * in.pixels + at;
  const T *share = in.confidence.data + clip * in.confidence.clip + at, *scale = share + in.confidence.channel;
  for (int64_t i = 0; i < n; ++i) {
    const T logit = valid[i] != 0 ? share[i] : T(0), log_scale = valid[i] != 0 ? scale[i] : T(0);
    const T small = exponential(-std::abs(logit)), tail = logarithm(T(1) + small);
    m.ordinary[i] = (logit < 0 ? logit : T(0)) - tail;
    m.doubtful[i] = (logit > 0 ? -logit : T(0)) - tail - log_scale;
    m.inverse[i] = exponential(-log_scale);
    m.share[i] = (logit < 0 ? small : T(1)) / (T(1) + small);
  }
}

template <typename T>
ALWAYS void laplace_errors(const FlowInputs<T>& in, int64_t clip, int64_t at, int64_t n, T* error) {
  Mixture<T> m;
  mixture(in, clip, at, n, m);
  const uint8_t* valid = in.valid + clip * in.pixels + at;
  for (int64_t c = 0; c < in.channels; ++c) {
    const T* p = in.predicted.data + clip * in.predicted.clip + c * in.predicted.channel + at;
    const T* t = in.target.data + clip * in.target.clip + c * in.target.channel + at;
    for (int64_t i = 0; i < n; ++i) {
      const T d = valid[i] != 0 ? std::abs(p[i] - t[i]) : T(0);
      const T a = m.ordinary[i] - d, b = m.doubtful[i] - d * m.inverse[i];
      error[i] += T(0.69314718055994530942) - ((a < b ? b : a) + logarithm(T(1) + exponential(-std::abs(a - b))));
    }
  }
}

// weight comes multiplied by the scale of the clip. All in arrays of its own: what may overlap is not made vectors of.
template <typename T>
ALWAYS void laplace_gradient(const FlowInputs<T>& in, int64_t clip, int64_t at, int64_t n, const T* weight, T* d_p,
                             T* d_confidence) {
  Mixture<T> m;
  T gap[kChunk], slope[kChunk], by_share[kChunk] = {}, by_scale[kChunk] = {};
  mixture(in, clip, at, n, m);
  const uint8_t* valid = in.valid + clip * in.pixels + at;
  for (int64_t c = 0; c < in.channels; ++c, d_p += in.pixels) {
    const T* p = in.predicted.data + clip * in.predicted.clip + c * in.predicted.channel + at;
    const T* t = in.target.data + clip * in.target.clip + c * in.target.channel + at;
    for (int64_t i = 0; i < n; ++i) gap[i] = valid[i] != 0 ? p[i] - t[i] : T(0);
    for (int64_t i = 0; i < n; ++i) {
      const T d = std::abs(gap[i]), sign = gap[i] > 0 ? T(1) : (gap[i] < 0 ? T(-1) : gap[i]);
      const T lead = (m.ordinary[i] - d) - (m.doubtful[i] - d * m.inverse[i]), small = exponential(-std::abs(lead));
      const T more = T(1) / (T(1) + small), less = small / (T(1) + small);
      const T ordinary = lead < 0 ? less : more, doubtful = lead < 0 ? more : less;
      const T inverse = doubtful == 0 ? T(0) : m.inverse[i];  // which may be infinite
      slope[i] = weight[i] * sign * (ordinary + doubtful * inverse);
      by_share[i] += weight[i] * (m.share[i] - ordinary);
      by_scale[i] += weight[i] * (doubtful * (T(1) - d * inverse));
    }
    std::copy(slope, slope + n, d_p);
  }
  T* d_share = d_confidence + 2 * clip * in.pixels + at;
  std::copy(by_share, by_share + n, d_share);
  std::copy(by_scale, by_scale + n, d_share + in.pixels);
}

// The error of pixels [at, at + n), summed over channels; for an end point its square. 0 outside the mask.
template <typename T>
ALWAYS void errors(const FlowInputs<T>& in, int64_t clip, int64_t at, int64_t n, T* error) {
  const uint8_t* valid = in.valid + clip * in.pixels + at;
  std::fill(error, error + n, T(0));
  if (in.loss == FlowLoss::kLaplace) return laplace_errors(in, clip, at, n, error);
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
    for (int64_t i = 0; i < n; ++i) weight[i] = T(valid[i] != 0);
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
ALWAYS void block_gradient(const FlowInputs<T>& in, int64_t clip, int64_t begin, int64_t end, double scale, T* out,
                           T* d_confidence) {
  T error[kChunk], weight[kChunk];
  const T by = T(scale);
  for (int64_t at = begin; at < end; at += kChunk) {
    const int64_t n = std::min(kChunk, end - at);
    const uint8_t* valid = in.valid + clip * in.pixels + at;
    weights(in, clip, at, n, weight);
    if (in.loss == FlowLoss::kLaplace) {
      for (int64_t i = 0; i < n; ++i) weight[i] *= by;
      laplace_gradient(in, clip, at, n, weight, out + clip * in.channels * in.pixels + at, d_confidence);
      continue;
    }
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
                                  float* out, float* d_confidence) {
  block_gradient(in, clip, begin, end, scale, out, d_confidence);
}
INSTRUCTION_SETS void gradient_of(const FlowInputs<double>& in, int64_t clip, int64_t begin, int64_t end, double scale,
                                  double* out, double* d_confidence) {
  block_gradient(in, clip, begin, end, scale, out, d_confidence);
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
void flow_loss_backward_cpu(const FlowInputs<T>& in, const double* scale, T* d_predicted, T* d_confidence) {
  const int64_t blocks = (in.pixels + kBlock - 1) / kBlock;
  torch::stable::parallel_for(0, in.clips * blocks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t clip = i / blocks, first = i % blocks * kBlock;
      gradient_of(in, clip, first, std::min(first + kBlock, in.pixels), scale[clip], d_predicted, d_confidence);
    }
  });
}

template void flow_loss_cpu(const FlowInputs<float>&, double*, double*);
template void flow_loss_cpu(const FlowInputs<double>&, double*, double*);
template void flow_loss_backward_cpu(const FlowInputs<float>&, const double*, float*, float*);
template void flow_loss_backward_cpu(const FlowInputs<double>&, const double*, double*, double*);

}  // namespace phys4d
