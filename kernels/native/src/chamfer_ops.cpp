// Registers the native parts of Chamfer through the torch stable ABI. The op that users see, phys4d::chamfer, is made
// in ../../geometry/clouds/chamfer_ops.py from these.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <tuple>

#include "chamfer.h"

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

void check_lengths(const char* name, const Tensor& lengths, int64_t batch, int64_t most) {
  STD_TORCH_CHECK(lengths.dim() == 1 && lengths.size(0) == batch && lengths.scalar_type() == ScalarType::Long, name,
                  ": expected int64 [", batch, "]");
  const int64_t* values = lengths.const_data_ptr<int64_t>();
  for (int64_t b = 0; b < batch; ++b) {
    STD_TORCH_CHECK(values[b] >= 0 && values[b] <= most, name, ": expected counts from 0 to ", most, ", got ",
                    values[b]);
  }
}

void check_batch(const Tensor& x, const Tensor& y, const Tensor& x_lengths, const Tensor& y_lengths) {
  STD_TORCH_CHECK(x.dim() == 3 && y.dim() == 3 && x.size(0) == y.size(0) && x.size(2) == y.size(2) &&
                      (x.size(2) == 3 || x.size(2) == 4),
                  "chamfer: expected x [B, N, 3 or 4] and y [B, M, as x]");
  STD_TORCH_CHECK(x.scalar_type() == y.scalar_type() &&
                      (x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double),
                  "chamfer: expected float32 or float64, the same in both clouds");
  STD_TORCH_CHECK(x.size(1) < INT32_MAX && y.size(1) < INT32_MAX, "chamfer: a cloud of 2^31 points or more");
  check_lengths("x_lengths", x_lengths, x.size(0), x.size(1));
  check_lengths("y_lengths", y_lengths, y.size(0), y.size(1));
}

void check_index(const Tensor& index, const Tensor& lengths, const Tensor& of) {
  const int64_t batch = index.size(0), width = index.size(1);
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t* row = index.const_data_ptr<int64_t>() + b * width;
    bool inside = true;
    for (int64_t i = 0; i < lengths.const_data_ptr<int64_t>()[b]; ++i) inside &= row[i] >= 0 && row[i] < of.size(1);
    STD_TORCH_CHECK(inside || of.size(1) == 0, "chamfer_gradients: an index lies outside of its cloud");
  }
}

template <typename T>
ChamferBatch<T> batch_of(const Tensor& x, const Tensor& y, const Tensor& x_lengths, const Tensor& y_lengths) {
  return {x.const_data_ptr<T>(),
          y.const_data_ptr<T>(),
          x_lengths.const_data_ptr<int64_t>(),
          y_lengths.const_data_ptr<int64_t>(),
          x.size(0),
          x.size(1),
          y.size(1)};
}

std::tuple<Tensor, Tensor, Tensor> search(const Tensor& x_in, const Tensor& y_in, const Tensor& x_lengths_in,
                                          const Tensor& y_lengths_in, bool squared) {
  const Tensor x = torch::stable::contiguous(x_in), y = torch::stable::contiguous(y_in);
  const Tensor x_lengths = torch::stable::contiguous(x_lengths_in), y_lengths = torch::stable::contiguous(y_lengths_in);
  check_batch(x, y, x_lengths, y_lengths);
  Tensor value = torch::stable::new_empty(x, {x.size(0)});
  Tensor toward_y = torch::stable::new_empty(x, {x.size(0), x.size(1)}, ScalarType::Long);
  Tensor toward_x = torch::stable::new_empty(x, {x.size(0), y.size(1)}, ScalarType::Long);
  const auto run = [&]<typename T>(T*) {
    const auto clouds = batch_of<T>(x, y, x_lengths, y_lengths);
    (x.size(2) == 3 ? chamfer_cpu<T, 3> : chamfer_cpu<T, 4>)(clouds, squared, value.mutable_data_ptr<T>(),
                                                             toward_y.mutable_data_ptr<int64_t>(),
                                                             toward_x.mutable_data_ptr<int64_t>());
  };
  if (x.scalar_type() == ScalarType::Float) {
    run(static_cast<float*>(nullptr));
  } else {
    run(static_cast<double*>(nullptr));
  }
  return {value, toward_y, toward_x};
}

std::tuple<Tensor, Tensor> gradients(const Tensor& gradient_in, const Tensor& x_in, const Tensor& y_in,
                                     const Tensor& x_lengths_in, const Tensor& y_lengths_in,
                                     const Tensor& toward_y_in, const Tensor& toward_x_in, bool squared) {
  const Tensor x = torch::stable::contiguous(x_in), y = torch::stable::contiguous(y_in);
  const Tensor x_lengths = torch::stable::contiguous(x_lengths_in), y_lengths = torch::stable::contiguous(y_lengths_in);
  const Tensor toward_y = torch::stable::contiguous(toward_y_in), toward_x = torch::stable::contiguous(toward_x_in);
  const Tensor gradient = torch::stable::contiguous(gradient_in);
  check_batch(x, y, x_lengths, y_lengths);
  STD_TORCH_CHECK(gradient.dim() == 1 && gradient.size(0) == x.size(0) && gradient.scalar_type() == x.scalar_type() &&
                      toward_y.dim() == 2 && toward_y.size(0) == x.size(0) && toward_y.size(1) == x.size(1) &&
                      toward_x.dim() == 2 && toward_x.size(0) == y.size(0) && toward_x.size(1) == y.size(1),
                  "chamfer_gradients: expected the gradient [B] in x's dtype and indices [B, N] and [B, M]");
  check_index(toward_y, x_lengths, y);
  check_index(toward_x, y_lengths, x);
  Tensor x_gradient = torch::stable::new_empty(x, {x.size(0), x.size(1), x.size(2)});
  Tensor y_gradient = torch::stable::new_empty(y, {y.size(0), y.size(1), y.size(2)});
  const auto run = [&]<typename T>(T*) {
    const auto clouds = batch_of<T>(x, y, x_lengths, y_lengths);
    (x.size(2) == 3 ? chamfer_gradients_cpu<T, 3> : chamfer_gradients_cpu<T, 4>)(
        clouds, toward_y.const_data_ptr<int64_t>(), toward_x.const_data_ptr<int64_t>(), gradient.const_data_ptr<T>(),
        squared, x_gradient.mutable_data_ptr<T>(), y_gradient.mutable_data_ptr<T>());
  };
  if (x.scalar_type() == ScalarType::Float) {
    run(static_cast<float*>(nullptr));
  } else {
    run(static_cast<double*>(nullptr));
  }
  return {x_gradient, y_gradient};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(phys4d, library) {
  library.def(
      "chamfer_search(Tensor x, Tensor y, Tensor x_lengths, Tensor y_lengths, bool squared) -> (Tensor, Tensor, "
      "Tensor)");
  library.def(
      "chamfer_gradients(Tensor gradient, Tensor x, Tensor y, Tensor x_lengths, Tensor y_lengths, Tensor toward_y, "
      "Tensor toward_x, bool squared) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(phys4d, CPU, library) {
  library.impl("chamfer_search", TORCH_BOX(&search));
  library.impl("chamfer_gradients", TORCH_BOX(&gradients));
}
