// Registers the CPU kernels of the scene flow loss; the op that people call is in ../../geometry/losses/scene_flow_ops.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <initializer_list>
#include <optional>
#include <tuple>

#include "plane_tensors.h"
#include "scene_flow.h"

using phys4d::channel;
using phys4d::fresh;
using phys4d::planes;
using phys4d::SceneFlowInputs;
using phys4d::with_planes;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

struct Held {  // keeps copies alive while pointers into them are used
  Tensor depth, motion, true_depth, true_motion, valid, intrinsics;
  std::optional<Tensor> weight;
};

Held hold(const Tensor& depth, const Tensor& motion, const Tensor& true_depth, const Tensor& true_motion,
          const Tensor& valid, const std::optional<Tensor>& weight, const Tensor& intrinsics) {
  STD_TORCH_CHECK(depth.dim() == 4 && depth.size(1) > 0, "scene_flow: depth must be [B, T, H, W] with T > 0");
  const int64_t b = depth.size(0), t = depth.size(1), h = depth.size(2), w = depth.size(3);
  STD_TORCH_CHECK(w < (int64_t{1} << 31), "scene_flow: a row has 2^31 pixels or more");
  const auto fits = [&](const Tensor& x, ScalarType dtype, std::initializer_list<int64_t> sizes, const char* what) {
    bool same = x.dim() == static_cast<int64_t>(sizes.size()) && x.scalar_type() == dtype;
    int i = 0;
    for (const int64_t size : sizes) same = same && x.size(i++) == size;
    STD_TORCH_CHECK(same, "scene_flow: another shape or dtype is expected of ", what);
  };
  const ScalarType dtype = depth.scalar_type();
  fits(motion, dtype, {b, 3, t - 1, h, w}, "motion");
  fits(true_depth, dtype, {b, t, h, w}, "true_depth");
  fits(true_motion, dtype, {b, 3, t - 1, h, w}, "true_motion");
  fits(valid, ScalarType::Bool, {b, t - 1, h, w}, "valid");
  fits(intrinsics, dtype, {b, t, 3, 3}, "intrinsics");
  Held held{with_planes(depth), with_planes(motion), with_planes(true_depth), with_planes(true_motion),
            with_planes(valid), torch::stable::contiguous(intrinsics), std::nullopt};
  if (weight.has_value()) {
    fits(*weight, dtype, {b, t - 1, h, w}, "weight");
    held.weight = with_planes(*weight);
  }
  return held;
}

template <typename T>
SceneFlowInputs<T> inputs(const Held& held) {
  const Tensor &d = held.depth, &m = held.motion, &n = held.true_motion;
  return {{planes<T>(d), channel<T>(m, 0), channel<T>(m, 1), channel<T>(m, 2)},
          {planes<T>(held.true_depth), channel<T>(n, 0), channel<T>(n, 1), channel<T>(n, 2)},
          planes<T>(held.weight), planes<bool>(held.valid), held.intrinsics.const_data_ptr<T>(), d.size(0), d.size(1),
          d.size(2), d.size(3)};
}

std::tuple<Tensor, Tensor> forward(const Tensor& depth, const Tensor& motion, const Tensor& true_depth,
                                   const Tensor& true_motion, const Tensor& valid, const std::optional<Tensor>& weight,
                                   const Tensor& intrinsics) {
  const Held held = hold(depth, motion, true_depth, true_motion, valid, weight, intrinsics);
  Tensor sum = torch::stable::new_empty(depth, {depth.size(0)}, ScalarType::Double);
  Tensor total = torch::stable::new_empty(depth, {depth.size(0)}, ScalarType::Double);
  double *s = sum.mutable_data_ptr<double>(), *w = total.mutable_data_ptr<double>();
  if (depth.scalar_type() == ScalarType::Float) {
    scene_flow_cpu(inputs<float>(held), s, w);
  } else {
    STD_TORCH_CHECK(depth.scalar_type() == ScalarType::Double, "scene_flow: float32 or float64 only");
    scene_flow_cpu(inputs<double>(held), s, w);
  }
  return {sum, total};
}

std::tuple<Tensor, Tensor> backward(const Tensor& scale, const Tensor& depth, const Tensor& motion,
                                    const Tensor& true_depth, const Tensor& true_motion, const Tensor& valid,
                                    const std::optional<Tensor>& weight, const Tensor& intrinsics) {
  const Held held = hold(depth, motion, true_depth, true_motion, valid, weight, intrinsics);
  STD_TORCH_CHECK(scale.dim() == 1 && scale.size(0) == depth.size(0) && scale.scalar_type() == ScalarType::Double,
                  "scene_flow: scale must be float64 [B]");
  const Tensor factor = torch::stable::contiguous(scale);
  const double* by = factor.const_data_ptr<double>();
  const int64_t clips = depth.size(0), frames = depth.size(1), height = depth.size(2), width = depth.size(3);
  Tensor d_depth = fresh(depth, {clips, frames, height, width});
  Tensor d_motion = fresh(depth, {clips, 3, frames - 1, height, width});
  if (depth.scalar_type() == ScalarType::Float) {
    scene_flow_backward_cpu(inputs<float>(held), by, d_depth.mutable_data_ptr<float>(),
                            d_motion.mutable_data_ptr<float>());
  } else {
    STD_TORCH_CHECK(depth.scalar_type() == ScalarType::Double, "scene_flow: float32 or float64 only");
    scene_flow_backward_cpu(inputs<double>(held), by, d_depth.mutable_data_ptr<double>(),
                            d_motion.mutable_data_ptr<double>());
  }
  return {d_depth, d_motion};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(phys4d, library) {
  library.def(
      "native_scene_flow(Tensor depth, Tensor motion, Tensor true_depth, Tensor true_motion, Tensor valid, "
      "Tensor? weight, Tensor intrinsics) -> (Tensor, Tensor)");
  library.def(
      "native_scene_flow_backward(Tensor scale, Tensor depth, Tensor motion, Tensor true_depth, Tensor true_motion, "
      "Tensor valid, Tensor? weight, Tensor intrinsics) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(phys4d, CPU, library) {
  library.impl("native_scene_flow", TORCH_BOX(&forward));
  library.impl("native_scene_flow_backward", TORCH_BOX(&backward));
}
