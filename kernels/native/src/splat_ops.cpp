// Registers the CPU kernels of the forward warp; the op that people call is in ../../geometry/warps/splat_ops.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <tuple>

#include "splat.h"
#include "plane_tensors.h"

using phys4d::Images;
using phys4d::SplatInputs;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

template <typename T>
Images<T> images(const std::optional<Tensor>& x) {
  if (!x.has_value()) return {nullptr, 0, 0, 0};
  if (x->dim() == 4) return {x->const_data_ptr<T>(), x->stride(0), 0, x->stride(1)};
  return {x->const_data_ptr<T>(), x->stride(0), x->stride(1), x->stride(2)};
}

template <typename T>
void splat(const Tensor& values, const Tensor& flow, const Tensor& depth, const std::optional<Tensor>& valid,
           Tensor& taken, Tensor& found, Tensor& index) {
  const SplatInputs<T> in{images<T>(values), images<T>(flow),   images<T>(depth), images<bool>(valid), values.size(0),
                          values.size(1),    values.size(2), values.size(3),   values.size(4)};
  phys4d::splat_cpu(in, taken.mutable_data_ptr<T>(), found.mutable_data_ptr<T>(), index.mutable_data_ptr<int64_t>());
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& values_in, const Tensor& flow_in, const Tensor& depth_in,
                                           const std::optional<Tensor>& valid_in) {
  STD_TORCH_CHECK(values_in.dim() == 5, "splat: values must be [B, C, T, H, W]");
  const int64_t b = values_in.size(0), c = values_in.size(1), t = values_in.size(2), h = values_in.size(3),
                w = values_in.size(4);
  const ScalarType dtype = depth_in.scalar_type();
  STD_TORCH_CHECK(phys4d::has_sizes(flow_in, {b, 2, t, h, w}) && phys4d::has_sizes(depth_in, {b, t, h, w}),
                  "splat: flow must be [B, 2, T, H, W] and depth [B, T, H, W]");
  STD_TORCH_CHECK(values_in.scalar_type() == dtype && flow_in.scalar_type() == dtype,
                  "splat: values, flow and depth must have one dtype");
  STD_TORCH_CHECK(h * w < (int64_t{1} << 31), "splat: a frame has 2^31 pixels or more");
  std::optional<Tensor> valid;
  if (valid_in.has_value()) {
    STD_TORCH_CHECK(phys4d::has_sizes(*valid_in, {b, t, h, w}) && valid_in->scalar_type() == ScalarType::Bool,
                    "splat: valid must be bool [B, T, H, W]");
    valid = phys4d::with_planes(*valid_in);
  }
  const Tensor values = phys4d::with_planes(values_in), flow = phys4d::with_planes(flow_in),
               depth = phys4d::with_planes(depth_in);
  Tensor taken = phys4d::fresh(values, {b, c, t, h, w}), found = phys4d::fresh(values, {b, t, h, w});
  Tensor index = phys4d::fresh(values, {b, t, h, w}, ScalarType::Long);
  if (dtype == ScalarType::Float) {
    splat<float>(values, flow, depth, valid, taken, found, index);
  } else {
    STD_TORCH_CHECK(dtype == ScalarType::Double, "splat: float32 or float64 only");
    splat<double>(values, flow, depth, valid, taken, found, index);
  }
  return {taken, found, index};
}

template <typename T>
void send_back(const Tensor& grad, const Tensor& index, int64_t channels, Tensor& back) {
  phys4d::splat_backward_cpu(images<T>(grad), index.const_data_ptr<int64_t>(), index.size(0), channels, index.size(1),
                             index.size(2) * index.size(3), back.mutable_data_ptr<T>());
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_in, const Tensor& depth_grad_in, const Tensor& index_in) {
  STD_TORCH_CHECK(grad_in.dim() == 5, "splat: the gradient of values must be [B, C, T, H, W]");
  const int64_t b = grad_in.size(0), c = grad_in.size(1), t = grad_in.size(2), h = grad_in.size(3),
                w = grad_in.size(4);
  const ScalarType dtype = grad_in.scalar_type();
  STD_TORCH_CHECK(phys4d::has_sizes(depth_grad_in, {b, t, h, w}) && depth_grad_in.scalar_type() == dtype &&
                      phys4d::has_sizes(index_in, {b, t, h, w}) && index_in.scalar_type() == ScalarType::Long,
                  "splat: the gradient of depth and the index must be [B, T, H, W]");
  const Tensor grad = phys4d::with_planes(grad_in), depth_grad = phys4d::with_planes(depth_grad_in);
  const Tensor index = torch::stable::contiguous(index_in);
  Tensor d_values = phys4d::fresh(grad, {b, c, t, h, w}), d_depth = phys4d::fresh(grad, {b, t, h, w});
  if (dtype == ScalarType::Float) {
    send_back<float>(grad, index, c, d_values);
    send_back<float>(depth_grad, index, 1, d_depth);
  } else {
    STD_TORCH_CHECK(dtype == ScalarType::Double, "splat: float32 or float64 only");
    send_back<double>(grad, index, c, d_values);
    send_back<double>(depth_grad, index, 1, d_depth);
  }
  return {d_values, d_depth};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(phys4d, library) {
  library.def("native_splat(Tensor values, Tensor flow, Tensor depth, Tensor? valid) -> (Tensor, Tensor, Tensor)");
  library.def("native_splat_backward(Tensor grad, Tensor depth_grad, Tensor index) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(phys4d, CPU, library) {
  library.impl("native_splat", TORCH_BOX(&forward));
  library.impl("native_splat_backward", TORCH_BOX(&backward));
}
