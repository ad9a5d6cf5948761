// Registers the CPU kernels of warp consistency; the op that people call is in ../../geometry/losses/warp_ops.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <optional>
#include <tuple>

#include "plane_tensors.h"
#include "warp_consistency.h"

using phys4d::channel;
using phys4d::fresh;
using phys4d::planes;
using phys4d::WarpInputs;
using phys4d::WarpLoss;
using phys4d::with_planes;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

struct Held {  // keeps copies alive while pointers into them are used
  Tensor depth, motion;
  std::optional<Tensor> visible, weight, truth;
};

Held hold(const Tensor& depth, const Tensor& motion, const std::optional<Tensor>& visible,
          const std::optional<Tensor>& weight, const std::optional<Tensor>& truth) {
  STD_TORCH_CHECK(depth.dim() == 4, "warp_consistency: depth must be [B, T, H, W]");
  STD_TORCH_CHECK(depth.size(1) > 0, "warp_consistency: depth has no frames");
  const int64_t sizes[5] = {depth.size(0), 3, depth.size(1) - 1, depth.size(2), depth.size(3)};
  STD_TORCH_CHECK(motion.dim() == 5, "warp_consistency: motion must be [B, 3, T-1, H, W]");
  for (int i = 0; i < 5; ++i) {
    STD_TORCH_CHECK(motion.size(i) == sizes[i], "warp_consistency: motion must be [B, 3, T-1, H, W]");
  }
  STD_TORCH_CHECK(sizes[3] * sizes[4] < (int64_t{1} << 31), "warp_consistency: a frame has 2^31 pixels or more");
  const auto like = [&](const std::optional<Tensor>& x, ScalarType dtype, int64_t frames) {
    if (!x.has_value()) return;
    const bool fits = x->dim() == 4 && x->size(0) == sizes[0] && x->size(1) == frames && x->size(2) == sizes[3] &&
                      x->size(3) == sizes[4];
    STD_TORCH_CHECK(fits && x->scalar_type() == dtype,
                    "warp_consistency: a mask, weight or truth of another shape or dtype");
  };
  STD_TORCH_CHECK(motion.scalar_type() == depth.scalar_type(), "warp_consistency: depth and motion must have one dtype");
  like(visible, ScalarType::Bool, sizes[2]);
  like(weight, depth.scalar_type(), sizes[2]);
  like(truth, depth.scalar_type(), depth.size(1));
  Held held{with_planes(depth), with_planes(motion), std::nullopt, std::nullopt, std::nullopt};
  if (visible.has_value()) held.visible = with_planes(*visible);
  if (weight.has_value()) held.weight = with_planes(*weight);
  if (truth.has_value()) held.truth = with_planes(*truth);
  return held;
}

template <typename T>
WarpInputs<T> inputs(const Held& held, int64_t loss, double z_test, bool clamp) {
  STD_TORCH_CHECK(loss >= 0 && loss <= 3, "warp_consistency: unknown loss");
  const Tensor &depth = held.depth, &motion = held.motion;
  return {planes<T>(depth), planes<T>(held.truth), channel<T>(motion, 0), channel<T>(motion, 1), channel<T>(motion, 2),
          planes<T>(held.weight), planes<bool>(held.visible), depth.size(0), depth.size(1), depth.size(2),
          depth.size(3), static_cast<WarpLoss>(loss), z_test, clamp};
}

using Numbers = std::tuple<Tensor, Tensor, Tensor>;

Numbers forward(const Tensor& depth, const Tensor& motion, const std::optional<Tensor>& visible,
                const std::optional<Tensor>& weight, const std::optional<Tensor>& truth, int64_t loss, double z_test,
                bool clamp) {
  const Held held = hold(depth, motion, visible, weight, truth);
  const int64_t clips = depth.size(0);
  Tensor sum = torch::stable::new_empty(depth, {clips}, ScalarType::Double);
  Tensor total = torch::stable::new_empty(depth, {clips}, ScalarType::Double);
  Tensor used = torch::stable::new_empty(depth, {clips}, ScalarType::Long);
  double *s = sum.mutable_data_ptr<double>(), *w = total.mutable_data_ptr<double>();
  int64_t* n = used.mutable_data_ptr<int64_t>();
  if (depth.scalar_type() == ScalarType::Float) {
    warp_consistency_cpu(inputs<float>(held, loss, z_test, clamp), s, w, n);
  } else {
    STD_TORCH_CHECK(depth.scalar_type() == ScalarType::Double, "warp_consistency: float32 or float64 only");
    warp_consistency_cpu(inputs<double>(held, loss, z_test, clamp), s, w, n);
  }
  return {sum, total, used};
}

std::tuple<Tensor, Tensor> backward(const Tensor& scale, const Tensor& depth, const Tensor& motion,
                                    const std::optional<Tensor>& visible, const std::optional<Tensor>& weight,
                                    const std::optional<Tensor>& truth, int64_t loss, double z_test, bool clamp) {
  const Held held = hold(depth, motion, visible, weight, truth);
  STD_TORCH_CHECK(scale.dim() == 1 && scale.size(0) == depth.size(0) && scale.scalar_type() == ScalarType::Double,
                  "warp_consistency: scale must be float64 [B]");
  const Tensor factor = torch::stable::contiguous(scale);
  const double* by = factor.const_data_ptr<double>();
  const int64_t clips = depth.size(0), frames = depth.size(1), height = depth.size(2), width = depth.size(3);
  Tensor d_depth = fresh(depth, {clips, frames, height, width});
  Tensor d_motion = fresh(depth, {clips, 3, frames - 1, height, width});
  if (depth.scalar_type() == ScalarType::Float) {
    warp_consistency_backward_cpu(inputs<float>(held, loss, z_test, clamp), by, d_depth.mutable_data_ptr<float>(),
                                  d_motion.mutable_data_ptr<float>());
  } else {
    STD_TORCH_CHECK(depth.scalar_type() == ScalarType::Double, "warp_consistency: float32 or float64 only");
    warp_consistency_backward_cpu(inputs<double>(held, loss, z_test, clamp), by, d_depth.mutable_data_ptr<double>(),
                                  d_motion.mutable_data_ptr<double>());
  }
  return {d_depth, d_motion};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(phys4d, library) {
  library.def(
      "native_warp_consistency(Tensor depth, Tensor motion, Tensor? visible, Tensor? weight, Tensor? truth, int loss, "
      "float z_test, bool clamp) -> (Tensor, Tensor, Tensor)");
  library.def(
      "native_warp_consistency_backward(Tensor scale, Tensor depth, Tensor motion, Tensor? visible, Tensor? weight, "
      "Tensor? truth, int loss, float z_test, bool clamp) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(phys4d, CPU, library) {
  library.impl("native_warp_consistency", TORCH_BOX(&forward));
  library.impl("native_warp_consistency_backward", TORCH_BOX(&backward));
}
