#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <cstdint>
#include <optional>
#include <vector>

#include "planes.h"

// Tensors as the kernels of images want them.
namespace phys4d {

// A tensor [B, ..., H, W] whose planes are contiguous: itself, or a copy.
inline torch::stable::Tensor with_planes(const torch::stable::Tensor& x) {
  const int64_t d = x.dim();
  const bool row = x.stride(d - 1) == 1 || x.size(d - 1) == 1;
  const bool fits = row && (x.stride(d - 2) == x.size(d - 1) || x.size(d - 2) == 1);
  return fits ? x : torch::stable::contiguous(x);
}

template <typename T>
Planes<T> planes(const std::optional<torch::stable::Tensor>& x) {
  if (!x.has_value()) return {nullptr, 0, 0};
  return {x->const_data_ptr<T>(), x->stride(0), x->stride(1)};
}

// Channel c of a tensor [B, C, T, H, W].
template <typename T>
Planes<T> channel(const torch::stable::Tensor& x, int64_t c) {
  if (x.numel() == 0) return {nullptr, 0, 0};
  return {x.const_data_ptr<T>() + c * x.stride(1), x.stride(0), x.stride(2)};
}

// A new tensor on huge pages where the system gives them: faulting in small ones takes longer than the arithmetic.
inline torch::stable::Tensor fresh(const torch::stable::Tensor& like, const std::vector<int64_t>& sizes,
                                   std::optional<torch::headeronly::ScalarType> dtype = std::nullopt) {
  torch::stable::Tensor made = torch::stable::new_empty(like, sizes, dtype);
#ifdef __linux__
  constexpr uintptr_t kPage = uintptr_t{1} << 21;
  const uintptr_t data = reinterpret_cast<uintptr_t>(made.const_data_ptr());
  const uintptr_t end = (data + made.numel() * made.element_size()) / kPage * kPage;
  const uintptr_t begin = (data + kPage - 1) / kPage * kPage;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a hint: may be refused
#endif
  return made;
}

// Whether x has these sizes; -1 stands for any.
inline bool has_sizes(const torch::stable::Tensor& x, const std::vector<int64_t>& sizes) {
  bool fits = x.dim() == static_cast<int64_t>(sizes.size());
  for (int64_t i = 0; fits && i < x.dim(); ++i) fits = sizes[i] < 0 || x.size(i) == sizes[i];
  return fits;
}

}  // namespace phys4d
