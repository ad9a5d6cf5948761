// Registers the ops through the torch stable ABI (C shims only). Fake, autograd and autocast rules are in
// ../__init__.py.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <tuple>

#include "nearest.h"
#include "nearest_tree.h"

#ifdef PHYS4D_WITH_CUDA
#include <dlfcn.h>
#endif

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

template <typename T>
void run_cpu(const Tensor& x, const Tensor& y, Tensor& distance, Tensor& index) {
  if (x.size(0) > kExhaustive / y.size(0) && x.size(0) < INT32_MAX && y.size(0) < INT32_MAX) {
    nearest_in_trees<T, 3>({{x.const_data_ptr<T>(), y.const_data_ptr<T>(), x.size(0), y.size(0),
                             distance.mutable_data_ptr<T>(), index.mutable_data_ptr<int64_t>(), nullptr, nullptr}});
    return;
  }
  nearest_cpu<T>(x.const_data_ptr<T>(), y.const_data_ptr<T>(), distance.mutable_data_ptr<T>(),
                 index.mutable_data_ptr<int64_t>(), x.size(0), y.size(0));
}

std::tuple<Tensor, Tensor> nearest_on_cpu(const Tensor& x_in, const Tensor& y_in) {
  check_clouds(x_in, y_in);
  const Tensor x = torch::stable::contiguous(x_in), y = torch::stable::contiguous(y_in);
  auto [distance, index] = new_outputs(x);
  if (x.size(0) == 0) return {distance, index};
  if (x.scalar_type() == ScalarType::Float) {
    run_cpu<float>(x, y, distance, index);
  } else {
    run_cpu<double>(x, y, distance, index);
  }
  return {distance, index};
}

#ifdef PHYS4D_WITH_CUDA
// The getter lives in libtorch_cuda: looked up at run time, so that a CPU-only torch can load us. The stable
// Stream::nativeHandle needs torch 2.13.
void* current_stream(int32_t device) {
  using Getter = int32_t (*)(int32_t, void**);
  static const Getter getter = [] {
    const char* name = "aoti_torch_get_current_cuda_stream";
    void* symbol = dlsym(RTLD_DEFAULT, name);
    void* library = symbol ? nullptr : dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD);
    return reinterpret_cast<Getter>(library ? dlsym(library, name) : symbol);
  }();
  STD_TORCH_CHECK(getter != nullptr, "nearest: this torch has no CUDA");
  void* stream = nullptr;
  STD_TORCH_CHECK(getter(device, &stream) == 0, "nearest: no current CUDA stream");
  return stream;
}

template <typename T>
const char* run_cuda(const Tensor& x, const Tensor& y, Tensor& distance, Tensor& index) {
  return nearest_cuda<T>(x.const_data_ptr<T>(), y.const_data_ptr<T>(), distance.mutable_data_ptr<T>(),
                         index.mutable_data_ptr<int64_t>(), x.size(0), y.size(0),
                         current_stream(x.get_device_index()));
}

std::tuple<Tensor, Tensor> nearest_on_cuda(const Tensor& x_in, const Tensor& y_in) {
  check_clouds(x_in, y_in);
  const torch::stable::accelerator::DeviceGuard guard(x_in.get_device_index());
  const Tensor x = torch::stable::contiguous(x_in), y = torch::stable::contiguous(y_in);
  auto [distance, index] = new_outputs(x);
  const char* fault = x.scalar_type() == ScalarType::Float ? run_cuda<float>(x, y, distance, index)
                                                           : run_cuda<double>(x, y, distance, index);
  STD_TORCH_CHECK(fault == nullptr, "nearest: ", fault);
  return {distance, index};
}
#endif

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(phys4d, library) { library.def("nearest(Tensor x, Tensor y) -> (Tensor, Tensor)"); }
STABLE_TORCH_LIBRARY_IMPL(phys4d, CPU, library) { library.impl("nearest", TORCH_BOX(&nearest_on_cpu)); }
#ifdef PHYS4D_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(phys4d, CUDA, library) { library.impl("nearest", TORCH_BOX(&nearest_on_cuda)); }
#endif
