// Registers the CPU kernels of norm_rope; the operator that is called is in ../../elementwise/norm_rope_ops.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <tuple>
#include <vector>

#include "norm_rope.h"
#include "plane_tensors.h"

using phys4d::fresh;
using phys4d::has_sizes;
using phys4d::HeadNorm;
using phys4d::Heads;
using phys4d::NormRope;
using phys4d::Rotation;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Maybe = std::optional<Tensor>;

namespace {

Heads heads(const Tensor& x) {
  const bool half = x.scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK(half || x.scalar_type() == ScalarType::Float, "norm_rope: float32 or bfloat16 only");
  STD_TORCH_CHECK(x.stride(3) == 1 || x.size(3) == 1, "norm_rope: the last dimension must be contiguous");
  return {x.const_data_ptr(), half, x.stride(0), x.stride(1), x.stride(2)};
}

const float* vector(const Maybe& x, int64_t size) {
  if (!x.has_value()) return nullptr;
  STD_TORCH_CHECK(has_sizes(*x, {size}) && x->scalar_type() == ScalarType::Float && x->is_contiguous(),
                  "norm_rope: weight and bias must be contiguous float32 of the channels that are normed together");
  return x->const_data_ptr<float>();
}

// grid: (T, H, W) of the video.
Rotation rotation(const std::vector<Maybe>& tables, const std::vector<int64_t>& grid, int64_t begin, bool halves,
                  int64_t dim) {
  Rotation found;
  STD_TORCH_CHECK(grid.size() == 3, "norm_rope: the grid must be (T, H, W)");
  found.across = grid[2];
  found.cells = grid[1] * grid[2];
  found.tokens = grid[0] * found.cells;
  found.begin = begin;
  found.halves = halves;
  if (!tables[0].has_value()) return found;
  int64_t pairs = 0;
  for (size_t axis = 0; axis < 3; ++axis) {
    STD_TORCH_CHECK(tables[axis].has_value(), "norm_rope: three tables or none");
    const Tensor& table = *tables[axis];
    STD_TORCH_CHECK(has_sizes(table, {-1, -1, 2}) && table.scalar_type() == ScalarType::Float && table.is_contiguous(),
                    "norm_rope: tables must be contiguous float32 [positions, pairs, 2]");
    STD_TORCH_CHECK(table.size(1) == 0 || table.size(0) >= grid[axis], "norm_rope: a table is shorter than the grid");
    // Of an axis without pairs nothing is read; its pointer only says that there is a rotation.
    static const float nothing = 0;
    found.tables[axis] = table.size(1) == 0 ? &nothing : table.const_data_ptr<float>();
    found.pairs[axis] = table.size(1);
    pairs += table.size(1);
  }
  STD_TORCH_CHECK(2 * pairs <= dim && (!halves || 2 * pairs == dim), "norm_rope: pairs do not fit the heads");
  return found;
}

NormRope norm_rope(const Tensor& like, const Maybe& weight, const Maybe& bias, int64_t norm, double epsilon,
                   const std::vector<Maybe>& tables, bool halves, const std::vector<int64_t>& grid, int64_t begin) {
  STD_TORCH_CHECK(like.dim() == 4 && like.size(2) * like.size(3) <= phys4d::kWidestHeads,
                  "norm_rope: x must be [B, S, heads, D]");
  STD_TORCH_CHECK(norm >= 0 && norm <= 3, "norm_rope: unknown norm");
  const HeadNorm kind = static_cast<HeadNorm>(norm);
  const int64_t dim = like.size(3), size = kind == HeadNorm::kRmsAcrossHeads ? like.size(2) * dim : dim;
  return {like.size(0), like.size(1), like.size(2), dim, kind, static_cast<float>(epsilon),
          vector(weight, size), vector(bias, size), rotation(tables, grid, begin, halves, dim)};
}

Tensor forward(const Tensor& x, const Maybe& weight, const Maybe& bias, int64_t norm, double epsilon, const Maybe& time,
               const Maybe& height, const Maybe& width, bool halves, const std::vector<int64_t>& grid, int64_t begin) {
  const NormRope how = norm_rope(x, weight, bias, norm, epsilon, {time, height, width}, halves, grid, begin);
  Tensor y = fresh(x, {how.clips, how.count, how.heads, how.dim});
  if (y.numel() > 0) phys4d::norm_rope_cpu(how, heads(x), y.mutable_data_ptr());
  return y;
}

// x: not there without a norm. The sums are those of the gradients of weight and bias over tokens, [2, heads * D].
std::tuple<Tensor, Tensor> backward(const Maybe& x, const Tensor& dy, const Maybe& weight, int64_t norm, double epsilon,
                                    const Maybe& time, const Maybe& height, const Maybe& width, bool halves,
                                    const std::vector<int64_t>& grid, int64_t begin, bool weight_gradient) {
  const NormRope how = norm_rope(dy, weight, std::nullopt, norm, epsilon, {time, height, width}, halves, grid, begin);
  STD_TORCH_CHECK(norm == 0 || (x.has_value() && has_sizes(*x, {how.clips, how.count, how.heads, how.dim}) &&
                                x->scalar_type() == dy.scalar_type()),
                  "norm_rope: the gradient must be of the shape and dtype of x");
  Tensor dx = fresh(dy, {how.clips, how.count, how.heads, how.dim});
  const bool wanted = weight_gradient && norm != 0;
  const int64_t n = how.heads * how.dim;
  Tensor sums = fresh(dy, {2, wanted ? n : 0}, ScalarType::Float);
  if (dx.numel() == 0) return {dx, torch::stable::zero_(sums)};
  Tensor partial = fresh(dy, {wanted ? phys4d::norm_rope_segments(how) : 0, 2, n}, ScalarType::Float);
  phys4d::norm_rope_backward_cpu(how, norm == 0 ? Heads() : heads(*x), heads(dy), dx.mutable_data_ptr(),
                                 wanted ? sums.mutable_data_ptr<float>() : nullptr,
                                 wanted ? partial.mutable_data_ptr<float>() : nullptr);
  return {dx, sums};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(phys4d, library) {
  library.def(
      "native_norm_rope(Tensor x, Tensor? weight, Tensor? bias, int norm, float epsilon, Tensor? time, Tensor? height, "
      "Tensor? width, bool halves, int[] grid, int begin) -> Tensor");
  library.def(
      "native_norm_rope_backward(Tensor? x, Tensor dy, Tensor? weight, int norm, float epsilon, Tensor? time, "
      "Tensor? height, Tensor? width, bool halves, int[] grid, int begin, bool weight_gradient) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(phys4d, CPU, library) {
  library.impl("native_norm_rope", TORCH_BOX(&forward));
  library.impl("native_norm_rope_backward", TORCH_BOX(&backward));
}
