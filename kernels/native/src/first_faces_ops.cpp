// Registers the nearest triangle at places of an image; phys4d/simulation/truth/first_faces.py calls it.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include "first_faces.h"

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

void check(const Tensor& x, int64_t rows, int64_t columns, ScalarType type, const char* name) {
  STD_TORCH_CHECK(x.scalar_type() == type && x.is_contiguous() && x.dim() == (columns ? 2 : 1) && x.size(0) == rows &&
                      (columns == 0 || x.size(1) == columns),
                  "native_first_faces: ", name, " has another dtype, shape or layout");
}

// Replaces inverse and face in place: they are the caller's own, and copies of them would cost as much as the search.
void first_faces(const Tensor& corners, const Tensor& numbers, const Tensor& pixels, const Tensor& intrinsics,
                 int64_t height, int64_t width, double nearest, Tensor inverse, Tensor face) {
  const int64_t faces = numbers.numel(), places = face.numel();
  check(corners, faces, 9, ScalarType::Double, "corners");
  check(numbers, faces, 0, ScalarType::Long, "numbers");
  check(pixels, places, 2, ScalarType::Double, "pixels");
  check(intrinsics, 3, 3, ScalarType::Double, "intrinsics");
  check(inverse, places, 0, ScalarType::Double, "inverse");
  check(face, places, 0, ScalarType::Long, "face");
  STD_TORCH_CHECK(height > 0 && width > 0 && nearest > 0, "native_first_faces: a size or depth is not positive");
  const double* at = pixels.const_data_ptr<double>();
  bool inside = true;
  for (int64_t i = 0; i < places; ++i) {
    inside &= at[2 * i] >= 0 && at[2 * i] <= width && at[2 * i + 1] >= 0 && at[2 * i + 1] <= height;
  }
  STD_TORCH_CHECK(inside, "native_first_faces: a place lies outside the image");
  const double* k = intrinsics.const_data_ptr<double>();
  phys4d::first_faces_cpu({corners.const_data_ptr<double>(), numbers.const_data_ptr<int64_t>(), faces, at, places,
                           k[0], k[4], k[2], k[5], height, width, nearest},
                          inverse.mutable_data_ptr<double>(), face.mutable_data_ptr<int64_t>());
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(phys4d, library) {
  library.def(
      "native_first_faces(Tensor corners, Tensor numbers, Tensor pixels, Tensor intrinsics, int height, int width, "
      "float nearest, Tensor(a!) inverse, Tensor(b!) face) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(phys4d, CPU, library) { library.impl("native_first_faces", TORCH_BOX(&first_faces)); }
