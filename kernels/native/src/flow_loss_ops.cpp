// Registers the CPU kernels of the flow loss; the op that people call is in ../../geometry/flow_ops.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <tuple>

#include "flow_loss.h"

using phys4d::FlowInputs;
using phys4d::FlowLoss;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

struct Held {
  Tensor predicted, target, valid;
  std::optional<Tensor> weight;
};

// predicted and target [B, C, N], valid and weight [B, N].
Held hold(const Tensor& predicted, const Tensor& target, const Tensor& valid, const std::optional<Tensor>& weight) {
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
  Held held{rows(predicted), rows(target), torch::stable::contiguous(valid), std::nullopt};
  if (weight.has_value()) {
    fits(*weight, predicted.scalar_type());
    held.weight = torch::stable::contiguous(*weight);
  }
  return held;
}

template <typename T>
FlowInputs<T> inputs(const Held& held, int64_t loss) {
  STD_TORCH_CHECK(loss >= 0 && loss <= 2, "flow_loss: unknown loss");
  const Tensor &p = held.predicted, &t = held.target;
  return {{p.const_data_ptr<T>(), p.stride(0), p.stride(1)}, {t.const_data_ptr<T>(), t.stride(0), t.stride(1)},
          held.weight.has_value() ? held.weight->const_data_ptr<T>() : nullptr,
          reinterpret_cast<const uint8_t*>(held.valid.const_data_ptr<bool>()), p.size(0), p.size(1), p.size(2),
          static_cast<FlowLoss>(loss)};
}

std::tuple<Tensor, Tensor> forward(const Tensor& predicted, const Tensor& target, const Tensor& valid,
                                   const std::optional<Tensor>& weight, int64_t loss) {
  const Held held = hold(predicted, target, valid, weight);
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

Tensor backward(const Tensor& scale, const Tensor& predicted, const Tensor& target, const Tensor& valid,
                const std::optional<Tensor>& weight, int64_t loss) {
  const Held held = hold(predicted, target, valid, weight);
  STD_TORCH_CHECK(scale.dim() == 1 && scale.size(0) == predicted.size(0) && scale.scalar_type() == ScalarType::Double,
                  "flow_loss: scale must be float64 [B]");
  const Tensor factor = torch::stable::contiguous(scale);
  const double* by = factor.const_data_ptr<double>();
  Tensor out = torch::stable::new_empty(predicted, {predicted.size(0), predicted.size(1), predicted.size(2)});
  if (predicted.scalar_type() == ScalarType::Float) {
    flow_loss_backward_cpu(inputs<float>(held, loss), by, out.mutable_data_ptr<float>());
  } else {
    STD_TORCH_CHECK(predicted.scalar_type() == ScalarType::Double, "flow_loss: float32 or float64 only");
    flow_loss_backward_cpu(inputs<double>(held, loss), by, out.mutable_data_ptr<double>());
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(phys4d, library) {
  library.def(
      "native_flow_loss(Tensor predicted, Tensor target, Tensor valid, Tensor? weight, int loss) -> (Tensor, Tensor)");
  library.def(
      "native_flow_loss_backward(Tensor scale, Tensor predicted, Tensor target, Tensor valid, Tensor? weight, int loss)"
      " -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(phys4d, CPU, library) {
  library.impl("native_flow_loss", TORCH_BOX(&forward));
  library.impl("native_flow_loss_backward", TORCH_BOX(&backward));
}
