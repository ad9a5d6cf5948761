// Registers the search in trees that ../../geometry/clouds/point_tree.py makes, through the torch stable ABI. Fake rules are in
// ../__init__.py.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <tuple>

#include "tree_search.h"

#ifdef PHYS4D_WITH_CUDA
#include <dlfcn.h>
#endif

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

struct Clouds {  // the arguments of an op
  Tensor x, x_lengths, x_order, y, y_lengths, points, order, boxes, first;
};

void check(const char* name, const Tensor& tensor, const Tensor& like, ScalarType dtype,
           std::initializer_list<int64_t> sizes) {
  bool fits = tensor.dim() == static_cast<int64_t>(sizes.size()) && tensor.scalar_type() == dtype &&
              tensor.is_contiguous() && tensor.device() == like.device();
  int64_t dimension = 0;
  for (const int64_t size : sizes) fits = fits && tensor.size(dimension++) == size;
  STD_TORCH_CHECK(fits, "tree_search: ", name, " is not as point_tree.grow makes it");
}

void check_all(const Clouds& given) {
  const Tensor& x = given.x;
  STD_TORCH_CHECK(x.dim() == 3 && (x.size(2) == 3 || x.size(2) == 4) && given.y.dim() == 3 &&
                      given.x_order.dim() == 2 && given.points.dim() == 4 && given.boxes.dim() == 4,
                  "tree_search: expected x [B, N, 3 or 4], y [B, M, as x], x_order [B, S] and a tree");
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double,
                  "tree_search: float32 or float64 only");
  STD_TORCH_CHECK(x.size(1) < INT_MAX && given.y.size(1) < INT_MAX, "tree_search: a cloud of 2^31 points or more");
  const int64_t batch = x.size(0), dimensions = x.size(2), leaves = given.points.size(1);
  const int64_t groups = given.boxes.size(1);
  const ScalarType dtype = x.scalar_type();
  check("x", x, x, dtype, {batch, x.size(1), dimensions});
  check("x_lengths", given.x_lengths, x, ScalarType::Long, {batch});
  check("x_order", given.x_order, x, ScalarType::Int, {batch, given.x_order.size(1)});
  check("y", given.y, x, dtype, {batch, given.y.size(1), dimensions});
  check("y_lengths", given.y_lengths, x, ScalarType::Long, {batch});
  check("points", given.points, x, dtype, {batch, leaves, dimensions, kLeafPoints});
  check("order", given.order, x, ScalarType::Int, {batch, leaves, kLeafPoints});
  check("boxes", given.boxes, x, dtype, {batch, groups, 2 * dimensions, kChildren});
  check("first", given.first, x, ScalarType::Int, {batch, groups, kChildren});
}

// The number of the first leaf among the nodes: of the levels above it, all are full but the last, which has as many
// nodes as there are fours of leaves.
int32_t first_leaf_of(int64_t leaves, int64_t groups) {
  int64_t level = 1, before = 0;  // nodes of a level, and of those above
  while (level * kChildren < leaves) {
    before += level;
    level *= kChildren;
  }
  STD_TORCH_CHECK(leaves > 0 && leaves % kChildren == 0 && groups == before + leaves / kChildren,
                  "tree_search: ", leaves, " leaves below ", groups, " groups of boxes are no tree");
  return static_cast<int32_t>(before + level);
}

template <typename T>
TreeSearch<T> search_of(const Clouds& given, Tensor& squares, Tensor& index) {
  const int64_t leaves = given.points.size(1), groups = given.boxes.size(1);
  return {given.x.const_data_ptr<T>(),
          given.x_lengths.const_data_ptr<int64_t>(),
          given.x_order.const_data_ptr<int32_t>(),
          given.y.const_data_ptr<T>(),
          given.y_lengths.const_data_ptr<int64_t>(),
          given.points.const_data_ptr<T>(),
          given.order.const_data_ptr<int32_t>(),
          given.boxes.const_data_ptr<T>(),
          given.first.const_data_ptr<int32_t>(),
          squares.mutable_data_ptr<T>(),
          index.mutable_data_ptr<int64_t>(),
          given.x.size(0),
          given.x.size(1),
          given.y.size(1),
          given.x_order.size(1),
          leaves,
          groups,
          first_leaf_of(leaves, groups)};
}

// Calls run.template operator()<T, D>(search) with the clouds' dtype and dimensions; returns squares and indices.
template <typename Run>
std::tuple<Tensor, Tensor> with_search(const Clouds& given, const Run& run) {
  check_all(given);
  const Tensor& x = given.x;
  Tensor squares = torch::stable::new_empty(x, {x.size(0), x.size(1)});
  Tensor index = torch::stable::new_empty(x, {x.size(0), x.size(1)}, ScalarType::Long);
  if (x.size(0) * x.size(1) == 0) return {squares, index};
  const bool flat = x.size(2) == 3;
  if (x.scalar_type() == ScalarType::Float) {
    const auto search = search_of<float>(given, squares, index);
    flat ? run.template operator()<float, 3>(search) : run.template operator()<float, 4>(search);
  } else {
    const auto search = search_of<double>(given, squares, index);
    flat ? run.template operator()<double, 3>(search) : run.template operator()<double, 4>(search);
  }
  return {squares, index};
}

#define ARGUMENTS                                                                                            \
  const Tensor &x, const Tensor &x_lengths, const Tensor &x_order, const Tensor &y, const Tensor &y_lengths, \
      const Tensor &points, const Tensor &order, const Tensor &boxes, const Tensor &first
#define GIVEN Clouds{x, x_lengths, x_order, y, y_lengths, points, order, boxes, first}

std::tuple<Tensor, Tensor> search_on_cpu(ARGUMENTS) {
  return with_search(GIVEN, []<typename T, int D>(const TreeSearch<T>& search) { tree_search_cpu<T, D>(search); });
}

Tensor visits_on_cpu(ARGUMENTS) {
  Tensor visits = torch::stable::new_zeros(x, {x.size(0), x.size(1), 2}, ScalarType::Int);
  with_search(GIVEN, [&visits]<typename T, int D>(const TreeSearch<T>& search) {
    tree_visits_cpu<T, D>(search, visits.mutable_data_ptr<int32_t>());
  });
  return visits;
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
  STD_TORCH_CHECK(getter != nullptr, "tree_search: this torch has no CUDA");
  void* stream = nullptr;
  STD_TORCH_CHECK(getter(device, &stream) == 0, "tree_search: no current CUDA stream");
  return stream;
}

std::tuple<Tensor, Tensor> search_on_cuda(ARGUMENTS) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  void* stream = current_stream(x.get_device_index());
  return with_search(GIVEN, [stream]<typename T, int D>(const TreeSearch<T>& search) {
    const char* fault = tree_search_cuda<T, D>(search, stream);
    STD_TORCH_CHECK(fault == nullptr, "tree_search: ", fault);
  });
}
#endif

}  // namespace

#define SCHEMA                                                                                                     \
  "(Tensor x, Tensor x_lengths, Tensor x_order, Tensor y, Tensor y_lengths, Tensor points, Tensor order, Tensor " \
  "boxes, Tensor first)"

STABLE_TORCH_LIBRARY_FRAGMENT(phys4d, library) {
  library.def("tree_search" SCHEMA " -> (Tensor, Tensor)");
  library.def("tree_visits" SCHEMA " -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(phys4d, CPU, library) {
  library.impl("tree_search", TORCH_BOX(&search_on_cpu));
  library.impl("tree_visits", TORCH_BOX(&visits_on_cpu));
}
#ifdef PHYS4D_WITH_CUDA
STABLE_TORCH_LIBRARY_IMPL(phys4d, CUDA, library) { library.impl("tree_search", TORCH_BOX(&search_on_cuda)); }
#endif
