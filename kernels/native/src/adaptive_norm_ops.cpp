// Registers the CPU kernels of adaptive_norm; the op that people call is in ../../elementwise/adaptive_norm_ops.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <tuple>
#include <vector>

#include "adaptive_norm.h"
#include "plane_tensors.h"

using phys4d::fresh;
using phys4d::has_sizes;
using phys4d::NormBackward;
using phys4d::NormForward;
using phys4d::NormGradients;
using phys4d::Rows;
using phys4d::RowsOfTokens;
using phys4d::Sizes;
using phys4d::TokenNorm;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Maybe = std::optional<Tensor>;

namespace {

bool half(const Tensor& x) {
  const bool is_half = x.scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK(is_half || x.scalar_type() == ScalarType::Float, "adaptive_norm: float32 or bfloat16 only");
  return is_half;
}

// Tokens [B, S, C] whose channels are contiguous: themselves, or a copy.
Tensor with_channels(const Tensor& x) {
  return x.stride(2) == 1 || x.size(2) == 1 ? x : torch::stable::contiguous(x);
}

Maybe with_channels(const Maybe& x) { return x.has_value() ? Maybe(with_channels(*x)) : x; }

Rows tokens(const Maybe& x, const Tensor& like) {
  if (!x.has_value()) return {};
  STD_TORCH_CHECK(has_sizes(*x, {like.size(0), like.size(1), like.size(2)}), "adaptive_norm: tokens must be [B, S, C]");
  return {x->const_data_ptr(), half(*x), x->stride(0), x->stride(1)};
}

Rows table(const Maybe& x, int64_t rows, int64_t width) {
  if (!x.has_value()) return {};
  STD_TORCH_CHECK(has_sizes(*x, {rows, width}) && (x->stride(1) == 1 || width == 1),
                  "adaptive_norm: gate, scale and shift must be [R, C] with contiguous rows");
  return {x->const_data_ptr(), half(*x), 0, x->stride(0)};
}

Rows affine(const Maybe& x, int64_t width) {
  if (!x.has_value()) return {};
  STD_TORCH_CHECK(has_sizes(*x, {width}) && (x->stride(0) == 1 || width == 1),
                  "adaptive_norm: weight and bias must be contiguous [C]");
  return {x->const_data_ptr(), half(*x), 0, 0};
}

Sizes sizes(const Tensor& x) {
  STD_TORCH_CHECK(x.dim() == 3 && x.size(2) > 0 && x.size(2) <= phys4d::kWidest, "adaptive_norm: x must be [B, S, C]");
  return {x.size(0) * x.size(1), x.size(1), x.size(2)};
}

const int32_t* integers(const Maybe& x, const std::vector<int64_t>& wanted) {
  if (!x.has_value()) return nullptr;
  STD_TORCH_CHECK(has_sizes(*x, wanted) && x->scalar_type() == ScalarType::Int && x->is_contiguous(),
                  "adaptive_norm: what tells the rows of tokens must be contiguous int32, as TokenRows makes it");
  return x->const_data_ptr<int32_t>();
}

TokenNorm norm_of(int64_t norm) {
  STD_TORCH_CHECK(norm >= 0 && norm <= 2, "adaptive_norm: unknown norm");
  return static_cast<TokenNorm>(norm);
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x, const Maybe& y, const Maybe& gate, const Maybe& weight,
                                           const Maybe& bias, const Maybe& scale, const Maybe& shift,
                                           const Maybe& index, int64_t rows, int64_t norm, double epsilon) {
  const Sizes size = sizes(x);
  STD_TORCH_CHECK(rows > 0, "adaptive_norm: no rows");
  const std::vector<int64_t> shape{x.size(0), x.size(1), size.width}, nothing{0};
  const bool whole = norm != 0 || scale.has_value() || shift.has_value();
  Tensor stream = fresh(x, y.has_value() ? shape : nothing), out = fresh(x, whole ? shape : nothing);
  Tensor stats = fresh(x, norm != 0 ? std::vector<int64_t>{x.size(0), x.size(1), 2} : nothing, ScalarType::Float);
  if (size.total == 0) return {stream, out, stats};
  const Tensor held = with_channels(x);
  const Maybe added = with_channels(y);
  const RowsOfTokens of{rows, size.total / rows, integers(index, {x.size(0), x.size(1)}), nullptr, nullptr, nullptr};
  const NormForward in{tokens(held, x), tokens(added, x), table(gate, rows, size.width), affine(weight, size.width),
                       affine(bias, size.width), table(scale, rows, size.width), table(shift, rows, size.width),
                       of, size, norm_of(norm), static_cast<float>(epsilon)};
  STD_TORCH_CHECK(index.has_value() || size.total % rows == 0, "adaptive_norm: rows do not share the tokens evenly");
  phys4d::adaptive_norm_cpu(in, y.has_value() ? stream.mutable_data_ptr() : nullptr,
                            whole ? out.mutable_data_ptr() : nullptr, stats.mutable_data_ptr<float>());
  return {stream, out, stats};
}

// order, segments and begins: of TokenRows, those of the backward pass; all or none.
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& stream, const Maybe& y, bool half_dy, const Maybe& gate,
                                            const Maybe& weight, const Maybe& scale, const Tensor& stats,
                                            const Maybe& dstream, const Maybe& dout, const Maybe& order,
                                            const Maybe& segments, const Maybe& begins, int64_t norm, int64_t rows,
                                            bool tables) {
  const Sizes size = sizes(stream);
  STD_TORCH_CHECK(rows > 0, "adaptive_norm: no rows");
  STD_TORCH_CHECK(dstream.has_value() || dout.has_value(), "adaptive_norm: no gradient to go back");
  STD_TORCH_CHECK(!tables || dout.has_value(), "adaptive_norm: tables have no gradient without that of the result");
  STD_TORCH_CHECK(order.has_value() == segments.has_value() && order.has_value() == begins.has_value(),
                  "adaptive_norm: order, segments and begins belong together");
  STD_TORCH_CHECK(order.has_value() || size.total % rows == 0, "adaptive_norm: rows do not share the tokens evenly");
  STD_TORCH_CHECK(!y.has_value() || (gate.has_value() && half(*y) == half_dy),
                  "adaptive_norm: y is for the gate's gradient, and its own is of its dtype");
  const std::vector<int64_t> shape{stream.size(0), stream.size(1), size.width}, nothing{0};
  Tensor dx = fresh(stream, shape);
  Tensor dy = fresh(stream, gate.has_value() ? shape : nothing, half_dy ? ScalarType::BFloat16 : ScalarType::Float);
  const int64_t parts = 2 * tables + y.has_value();
  Tensor sums = fresh(stream, {rows, parts, size.width}, ScalarType::Float);
  if (size.total == 0) return {dx, dy, torch::stable::zero_(sums)};
  const Tensor held = with_channels(stream), moments = torch::stable::contiguous(stats);
  STD_TORCH_CHECK(norm == 0 || (has_sizes(moments, {stream.size(0), stream.size(1), 2}) &&
                                moments.scalar_type() == ScalarType::Float),
                  "adaptive_norm: stats must be float32 [B, S, 2]");
  const Maybe through = with_channels(y), to_stream = with_channels(dstream), to_out = with_channels(dout);
  const RowsOfTokens of{rows, size.total / rows, nullptr, integers(order, {size.total}), integers(segments, {-1, 3}),
                        integers(begins, {rows + 1})};
  const NormBackward in{tokens(held, stream), tokens(through, stream),
                        tokens(to_stream, stream), tokens(to_out, stream),
                        table(gate, rows, size.width), affine(weight, size.width), table(scale, rows, size.width),
                        norm != 0 ? moments.const_data_ptr<float>() : nullptr, of, size, norm_of(norm), tables};
  for (const Rows& gradient : {in.dstream, in.dout}) {
    STD_TORCH_CHECK(gradient.data == nullptr || gradient.half == in.stream.half,
                    "adaptive_norm: gradients must be of the dtype of the stream");
  }
  Tensor partial = fresh(stream, {phys4d::adaptive_norm_partial(in), parts, size.width}, ScalarType::Float);
  const NormGradients to{dx.mutable_data_ptr(), gate.has_value() ? dy.mutable_data_ptr() : nullptr, in.stream.half,
                         half_dy, sums.mutable_data_ptr<float>()};
  phys4d::adaptive_norm_backward_cpu(in, to, partial.mutable_data_ptr<float>());
  return {dx, dy, sums};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(phys4d, library) {
  library.def(
      "native_adaptive_norm(Tensor x, Tensor? y, Tensor? gate, Tensor? weight, Tensor? bias, Tensor? scale, "
      "Tensor? shift, Tensor? index, int rows, int norm, float epsilon) -> (Tensor, Tensor, Tensor)");
  library.def(
      "native_adaptive_norm_backward(Tensor stream, Tensor? y, bool half_dy, Tensor? gate, Tensor? weight, "
      "Tensor? scale, Tensor stats, Tensor? dstream, Tensor? dout, Tensor? order, Tensor? segments, Tensor? begins, "
      "int norm, int rows, bool tables) -> (Tensor, Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(phys4d, CPU, library) {
  library.impl("native_adaptive_norm", TORCH_BOX(&forward));
  library.impl("native_adaptive_norm_backward", TORCH_BOX(&backward));
}
