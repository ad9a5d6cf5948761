// Registers the CPU kernels of the depth losses, which give sums per frame and take slopes per frame; what the losses
// make of them is in ../../geometry/losses/depth_ops.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>

#include "depth_losses.h"
#include "plane_tensors.h"

using phys4d::DepthInputs;
using phys4d::DepthSlopes;
using phys4d::DepthSums;
using phys4d::fresh;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

constexpr int64_t kSums = sizeof(DepthSums) / sizeof(double), kSlopes = sizeof(DepthSlopes) / sizeof(double);

struct Held {
  Tensor predicted, target, valid;
  std::optional<Tensor> weight;
};

Held hold(const Tensor& predicted, const Tensor& target, const Tensor& valid, const std::optional<Tensor>& weight) {
  const auto fits = [&](const Tensor& x, ScalarType dtype) {
    bool same = x.dim() == 4 && predicted.dim() == 4 && x.scalar_type() == dtype;
    for (int i = 0; same && i < 4; ++i) same = x.size(i) == predicted.size(i);
    STD_TORCH_CHECK(same, "depth_losses: target, valid and weight must be as predicted [B, T, H, W], valid bool");
  };
  fits(target, predicted.scalar_type());
  fits(valid, ScalarType::Bool);
  Held held{torch::stable::contiguous(predicted), torch::stable::contiguous(target), torch::stable::contiguous(valid),
            std::nullopt};
  if (weight.has_value()) {
    fits(*weight, predicted.scalar_type());
    held.weight = torch::stable::contiguous(*weight);
  }
  return held;
}

template <typename T>
DepthInputs<T> inputs(const Held& held, int64_t scales, int64_t wanted) {
  STD_TORCH_CHECK(scales >= 0 && scales <= phys4d::kMostScales, "depth_losses: at most 8 scales");
  const Tensor& p = held.predicted;
  return {p.const_data_ptr<T>(), held.target.const_data_ptr<T>(),
          held.weight.has_value() ? held.weight->const_data_ptr<T>() : nullptr,
          reinterpret_cast<const uint8_t*>(held.valid.const_data_ptr<bool>()), p.size(0), p.size(1), p.size(2),
          p.size(3), static_cast<int>(scales), static_cast<int>(wanted)};
}

Tensor forward(const Tensor& predicted, const Tensor& target, const Tensor& valid, const std::optional<Tensor>& weight,
               int64_t scales, int64_t wanted) {
  const Held held = hold(predicted, target, valid, weight);
  Tensor sums = torch::stable::new_empty(predicted, {predicted.size(0), predicted.size(1), kSums}, ScalarType::Double);
  DepthSums* out = reinterpret_cast<DepthSums*>(sums.mutable_data_ptr<double>());
  if (predicted.scalar_type() == ScalarType::Float) {
    depth_losses_cpu(inputs<float>(held, scales, wanted), out);
  } else {
    STD_TORCH_CHECK(predicted.scalar_type() == ScalarType::Double, "depth_losses: float32 or float64 only");
    depth_losses_cpu(inputs<double>(held, scales, wanted), out);
  }
  return sums;
}

Tensor backward(const Tensor& slopes, const Tensor& predicted, const Tensor& target, const Tensor& valid,
                const std::optional<Tensor>& weight, int64_t scales, int64_t wanted) {
  const Held held = hold(predicted, target, valid, weight);
  const bool fits = slopes.dim() == 3 && slopes.size(0) == predicted.size(0) && slopes.size(1) == predicted.size(1) &&
                    slopes.size(2) == kSlopes && slopes.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(fits, "depth_losses: slopes must be float64 [B, T, 14]");
  const Tensor by = torch::stable::contiguous(slopes);
  const DepthSlopes* from = reinterpret_cast<const DepthSlopes*>(by.const_data_ptr<double>());
  Tensor out = fresh(predicted, {predicted.size(0), predicted.size(1), predicted.size(2), predicted.size(3)});
  if (predicted.scalar_type() == ScalarType::Float) {
    depth_losses_backward_cpu(inputs<float>(held, scales, wanted), from, out.mutable_data_ptr<float>());
  } else {
    STD_TORCH_CHECK(predicted.scalar_type() == ScalarType::Double, "depth_losses: float32 or float64 only");
    depth_losses_backward_cpu(inputs<double>(held, scales, wanted), from, out.mutable_data_ptr<double>());
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(phys4d, library) {
  library.def(
      "native_depth_losses(Tensor predicted, Tensor target, Tensor valid, Tensor? weight, int scales, int wanted) -> "
      "Tensor");
  library.def(
      "native_depth_losses_backward(Tensor slopes, Tensor predicted, Tensor target, Tensor valid, Tensor? weight, "
      "int scales, int wanted) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(phys4d, CPU, library) {
  library.impl("native_depth_losses", TORCH_BOX(&forward));
  library.impl("native_depth_losses_backward", TORCH_BOX(&backward));
}
