// Registers the ops through the torch stable ABI (C shims only). Fake, autograd and autocast rules are
// registered beside the public functions: of `nearest` in geometry/clouds/nearest_native.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <tuple>

#include "nearest.h"
#include "nearest_tree.h"

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

void check_clouds(const Tensor& x, const Tensor& y) {
  STD_TORCH_CHECK(x.dim() == 2 && x.size(1) == 3, "nearest: x must be [N, 3]");
  STD_TORCH_CHECK(y.dim() == 2 && y.size(1) == 3, "nearest: y must be [M, 3]");
  STD_TORCH_CHECK(x.device() == y.device(), "nearest: x and y must be on one device");
  STD_TORCH_CHECK(x.scalar_type() == y.scalar_type(), "nearest: x and y must have one dtype");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double,
                  "nearest: float32 or float64 only");
  STD_TORCH_CHECK(x.size(0) == 0 || y.size(0) > 0, "nearest: y is empty");
}

std::tuple<Tensor, Tensor> new_outputs(const Tensor& x) {
  return {torch::stable::new_empty(x, {x.size(0)}),
          torch::stable::new_empty(x, {x.size(0)}, ScalarType::Long)};
}

constexpr int64_t kExhaustive = 1 << 19;  // pairs that are sooner compared than put into trees; the bits are the same

enum Way : int64_t { kBySize = 0, kAll = 1, kTrees = 2 };

template <typename T>
void run_cpu(const Tensor& x, const Tensor& y, Tensor& distance, Tensor& index, int64_t way) {
  const bool fits = x.size(0) < INT32_MAX && y.size(0) < INT32_MAX;
  STD_TORCH_CHECK(fits || way != kTrees, "nearest: trees hold fewer than 2^31 points");
  if (way == kTrees || (way == kBySize && x.size(0) > kExhaustive / y.size(0) && fits)) {
    nearest_in_trees<T, 3>({{x.const_data_ptr<T>(), y.const_data_ptr<T>(), x.size(0), y.size(0),
                             distance.mutable_data_ptr<T>(), index.mutable_data_ptr<int64_t>(), nullptr, nullptr}});
    return;
  }
  nearest_cpu<T>(x.const_data_ptr<T>(), y.const_data_ptr<T>(), distance.mutable_data_ptr<T>(),
                 index.mutable_data_ptr<int64_t>(), x.size(0), y.size(0));
}

std::tuple<Tensor, Tensor> nearest_on_cpu(const Tensor& x_in, const Tensor& y_in, int64_t way) {
  check_clouds(x_in, y_in);
  STD_TORCH_CHECK(way == kBySize || way == kAll || way == kTrees, "nearest: there is no way ", way);
  const Tensor x = torch::stable::contiguous(x_in), y = torch::stable::contiguous(y_in);
  auto [distance, index] = new_outputs(x);
  if (x.size(0) == 0) return {distance, index};
  if (x.scalar_type() == ScalarType::Float) {
    run_cpu<float>(x, y, distance, index, way);
  } else {
    run_cpu<double>(x, y, distance, index, way);
  }
  return {distance, index};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(phys4d, library) {
  library.def("nearest(Tensor x, Tensor y, int way=0) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(phys4d, CPU, library) { library.impl("nearest", TORCH_BOX(&nearest_on_cpu)); }
