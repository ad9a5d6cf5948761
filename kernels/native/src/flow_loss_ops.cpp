// Registers the CPU kernels of the flow loss; the op that people call is in ../../geometry/losses/flow_ops.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <tuple>

#include "flow_loss.h"
#include "plane_tensors.h"

using phys4d::Channels;
using phys4d::FlowInputs;
using phys4d::FlowLoss;
using phys4d::fresh;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

struct Held {
  Tensor predicted, target, valid;
  std::optional<Tensor> weight, confidence;
};

// predicted and target [B, C, N], valid and weight [B, N], confidence [B, 2, N], for laplace alone.
Held hold(const Tensor& predicted, const Tensor& target, const Tensor& valid, const std::optional<Tensor>& weight,
          const std::optional<Tensor>& confidence, int64_t loss) {
  STD_TORCH_CHECK(loss >= 0 && loss <= 3, "flow_loss: unknown loss");
  STD_TORCH_CHECK((static_cast<FlowLoss>(loss) == FlowLoss::kLaplace) == confidence.has_value(),
                  "flow_loss: confidence is for laplace, and laplace needs it");
  STD_TORCH_CHECK(predicted.dim() == 3 && target.dim() == 3, "flow_loss: predicted and target must be [B, C, N]");
  bool same = predicted.scalar_type() == target.scalar_type();
  for (int i = 0; i < 3; ++i) same = same && predicted.size(i) == target.size(i);
  STD_TORCH_CHECK(same, "flow_loss: target must be as predicted, in shape and dtype");
  const auto fits = [&](const Tensor& x, ScalarType dtype) {
    const bool same = x.dim() == 2 && x.size(0) == predicted.size(0) && x.size(1) == predicted.size(2);
    STD_TORCH_CHECK(same && x.scalar_type() == dtype, "flow_loss: valid (bool) and weight must be [B, N]");
  };
  const auto rows = [](const Tensor& x) { return x.stride(2) == 1 || x.size(2) <= 1 ? x : torch::stable::contiguous(x); };
  fits(valid, ScalarType::Bool);
  Held held{rows(predicted), rows(target), torch::stable::contiguous(valid), std::nullopt, std::nullopt};
  if (weight.has_value()) {
    fits(*weight, predicted.scalar_type());
    held.weight = torch::stable::contiguous(*weight);
  }
  if (confidence.has_value()) {
    const bool both = confidence->dim() == 3 && confidence->size(0) == predicted.size(0) && confidence->size(1) == 2 &&
                      confidence->size(2) == predicted.size(2);
    STD_TORCH_CHECK(both && confidence->scalar_type() == predicted.scalar_type(),
                    "flow_loss: confidence must be [B, 2, N], of the dtype of predicted");
    held.confidence = rows(*confidence);
  }
  return held;
}

template <typename T>
FlowInputs<T> inputs(const Held& held, int64_t loss) {
  const auto channels = [](const Tensor& x) { return Channels<T>{x.const_data_ptr<T>(), x.stride(0), x.stride(1)}; };
  const Tensor &p = held.predicted, &t = held.target;
  return {channels(p), channels(t), held.confidence.has_value() ? channels(*held.confidence) : Channels<T>{},
          held.weight.has_value() ? held.weight->const_data_ptr<T>() : nullptr,
          reinterpret_cast<const uint8_t*>(held.valid.const_data_ptr<bool>()), p.size(0), p.size(1), p.size(2),
          static_cast<FlowLoss>(loss)};
}

std::tuple<Tensor, Tensor> forward(const Tensor& predicted, const Tensor& target, const Tensor& valid,
                                   const std::optional<Tensor>& weight, const std::optional<Tensor>& confidence,
                                   int64_t loss) {
  const Held held = hold(predicted, target, valid, weight, confidence, loss);
  Tensor sum = torch::stable::new_empty(predicted, {predicted.size(0)}, ScalarType::Double);
  Tensor total = torch::stable::new_empty(predicted, {predicted.size(0)}, ScalarType::Double);
  double *s = sum.mutable_data_ptr<double>(), *w = total.mutable_data_ptr<double>();
  if (predicted.scalar_type() == ScalarType::Float) {
    flow_loss_cpu(inputs<float>(held, loss), s, w);
  } else {
    STD_TORCH_CHECK(predicted.scalar_type() == ScalarType::Double, "flow_loss: float32 or float64 only");
    flow_loss_cpu(inputs<double>(held, loss), s, w);
  }
  return {sum, total};
}

std::tuple<Tensor, Tensor> backward(const Tensor& scale, const Tensor& predicted, const Tensor& target,
                                    const Tensor& valid, const std::optional<Tensor>& weight,
                                    const std::optional<Tensor>& confidence, int64_t loss) {
  const Held held = hold(predicted, target, valid, weight, confidence, loss);
  STD_TORCH_CHECK(scale.dim() == 1 && scale.size(0) == predicted.size(0) && scale.scalar_type() == ScalarType::Double,
                  "flow_loss: scale must be float64 [B]");
  const Tensor factor = torch::stable::contiguous(scale);
  const double* by = factor.const_data_ptr<double>();
  Tensor out = fresh(predicted, {predicted.size(0), predicted.size(1), predicted.size(2)});
  const bool both = confidence.has_value();
  Tensor also = fresh(predicted, {both ? predicted.size(0) : 0, 2, predicted.size(2)});
  if (predicted.scalar_type() == ScalarType::Float) {
    flow_loss_backward_cpu(inputs<float>(held, loss), by, out.mutable_data_ptr<float>(),
                           also.mutable_data_ptr<float>());
  } else {
    STD_TORCH_CHECK(predicted.scalar_type() == ScalarType::Double, "flow_loss: float32 or float64 only");
    flow_loss_backward_cpu(inputs<double>(held, loss), by, out.mutable_data_ptr<double>(),
                           also.mutable_data_ptr<double>());
  }
  return {out, also};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(phys4d, library) {
  library.def(
      "native_flow_loss(Tensor predicted, Tensor target, Tensor valid, Tensor? weight, Tensor? confidence, int loss) -> "
      "(Tensor, Tensor)");
  library.def(
      "native_flow_loss_backward(Tensor scale, Tensor predicted, Tensor target, Tensor valid, Tensor? weight, "
      "Tensor? confidence, int loss) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(phys4d, CPU, library) {
  library.impl("native_flow_loss", TORCH_BOX(&forward));
  library.impl("native_flow_loss_backward", TORCH_BOX(&backward));
}
