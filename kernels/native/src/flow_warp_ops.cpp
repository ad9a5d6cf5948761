// Registers the CPU kernels of the backward warp; the op that people call is in ../../geometry/warps/flow_warp_ops.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <tuple>

#include "flow_warp.h"
#include "plane_tensors.h"

using phys4d::FlowWarpInputs;
using phys4d::Video;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

struct Held {  // keeps copies alive while pointers into them are used
  Tensor frames, flow;
  std::optional<Tensor> labels, wanted;
};

Held hold(const Tensor& frames, const Tensor& flow, const std::optional<Tensor>& labels,
          const std::optional<Tensor>& wanted) {
  STD_TORCH_CHECK(frames.dim() == 5, "flow_warp: frames must be [B, C, T, H, W]");
  const int64_t b = frames.size(0), t = frames.size(2), h = frames.size(3), w = frames.size(4);
  STD_TORCH_CHECK(phys4d::has_sizes(flow, {b, 2, t, h, w}) && flow.scalar_type() == frames.scalar_type(),
                  "flow_warp: flow must be [B, 2, T, H, W] of frames' dtype");
  STD_TORCH_CHECK(h * w < (int64_t{1} << 31), "flow_warp: a frame has 2^31 pixels or more");
  STD_TORCH_CHECK(labels.has_value() == wanted.has_value(), "flow_warp: labels and wanted come together");
  Held held{phys4d::with_planes(frames), phys4d::with_planes(flow), std::nullopt, std::nullopt};
  if (labels.has_value()) {
    for (const Tensor* marks : {&*labels, &*wanted}) {
      STD_TORCH_CHECK(phys4d::has_sizes(*marks, {b, t, h, w}) && marks->scalar_type() == frames.scalar_type(),
                      "flow_warp: labels and wanted must be [B, T, H, W] of frames' dtype");
    }
    held.labels = torch::stable::contiguous(*labels);
    held.wanted = torch::stable::contiguous(*wanted);
  }
  return held;
}

template <typename T>
Video<T> video(const Tensor& x) {
  return {x.const_data_ptr<T>(), x.stride(0), x.stride(1), x.stride(2)};
}

template <typename T>
FlowWarpInputs<T> inputs(const Held& held, double tolerance, bool clamp) {
  const Tensor& x = held.frames;
  const auto marks = [](const std::optional<Tensor>& m) { return m.has_value() ? m->const_data_ptr<T>() : nullptr; };
  return {video<T>(x), video<T>(held.flow), marks(held.labels), marks(held.wanted),
          x.size(0), x.size(1), x.size(2), x.size(3), x.size(4), tolerance, clamp};
}

std::tuple<Tensor, Tensor> forward(const Tensor& frames, const Tensor& flow, const std::optional<Tensor>& labels,
                                   const std::optional<Tensor>& wanted, double tolerance, bool clamp) {
  const Held held = hold(frames, flow, labels, wanted);
  const int64_t b = frames.size(0), c = frames.size(1), t = frames.size(2), h = frames.size(3), w = frames.size(4);
  Tensor warped = phys4d::fresh(frames, {b, c, t, h, w});
  Tensor inside = phys4d::fresh(frames, {b, t, h, w}, ScalarType::Bool);
  if (frames.scalar_type() == ScalarType::Float) {
    phys4d::flow_warp_cpu(inputs<float>(held, tolerance, clamp), warped.mutable_data_ptr<float>(),
                          inside.mutable_data_ptr<bool>());
  } else {
    STD_TORCH_CHECK(frames.scalar_type() == ScalarType::Double, "flow_warp: float32 or float64 only");
    phys4d::flow_warp_cpu(inputs<double>(held, tolerance, clamp), warped.mutable_data_ptr<double>(),
                          inside.mutable_data_ptr<bool>());
  }
  return {warped, inside};
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_in, const Tensor& frames, const Tensor& flow,
                                    const std::optional<Tensor>& labels, const std::optional<Tensor>& wanted,
                                    double tolerance, bool clamp, bool fixed) {
  const Held held = hold(frames, flow, labels, wanted);
  const int64_t b = frames.size(0), c = frames.size(1), t = frames.size(2), h = frames.size(3), w = frames.size(4);
  STD_TORCH_CHECK(phys4d::has_sizes(grad_in, {b, c, t, h, w}) && grad_in.scalar_type() == frames.scalar_type(),
                  "flow_warp: the gradient must be as frames");
  const Tensor grad = phys4d::with_planes(grad_in);
  Tensor d_frames = fixed ? torch::stable::new_empty(frames, {0}) : phys4d::fresh(frames, {b, c, t, h, w});
  Tensor d_flow = phys4d::fresh(frames, {b, 2, t, h, w});
  if (frames.scalar_type() == ScalarType::Float) {
    phys4d::flow_warp_backward_cpu(inputs<float>(held, tolerance, clamp), video<float>(grad),
                                   fixed ? nullptr : d_frames.mutable_data_ptr<float>(),
                                   d_flow.mutable_data_ptr<float>());
  } else {
    STD_TORCH_CHECK(frames.scalar_type() == ScalarType::Double, "flow_warp: float32 or float64 only");
    phys4d::flow_warp_backward_cpu(inputs<double>(held, tolerance, clamp), video<double>(grad),
                                   fixed ? nullptr : d_frames.mutable_data_ptr<double>(),
                                   d_flow.mutable_data_ptr<double>());
  }
  return {d_frames, d_flow};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(phys4d, library) {
  library.def(
      "native_flow_warp(Tensor frames, Tensor flow, Tensor? labels, Tensor? wanted, float tolerance, bool clamp) -> "
      "(Tensor, Tensor)");
  library.def(
      "native_flow_warp_backward(Tensor grad, Tensor frames, Tensor flow, Tensor? labels, Tensor? wanted, "
      "float tolerance, bool clamp, bool fixed) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(phys4d, CPU, library) {
  library.impl("native_flow_warp", TORCH_BOX(&forward));
  library.impl("native_flow_warp_backward", TORCH_BOX(&backward));
}
