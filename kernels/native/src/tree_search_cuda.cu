// One thread per query; threads that stand side by side take queries that lie side by side, so that they mostly walk
// together. Every output element is owned by one thread: the same bits in every run, and as on the CPU.
#include <cuda_runtime.h>

#include "tree_search.h"

namespace {

constexpr int kThreads = 128;

// Left to itself the compiler spills to fit more threads than there are queries for.
template <typename T>
constexpr int kBlocksAtOnce = sizeof(T) == 4 ? 8 : 6;

template <typename T, int D>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<T>)
    search_kernel(const TreeSearch<T> search, const uint32_t blocks) {
  const int64_t clip = blockIdx.x / blocks;
  const int64_t slot = static_cast<int64_t>(blockIdx.x % blocks) * kThreads + threadIdx.x;
  NoVisits none;
  if (slot < search.slots) answer<T, D>(search, clip, slot, none);
}

}  // namespace

template <typename T, int D>
const char* tree_search_cuda(const TreeSearch<T>& search, void* stream) {
  const int64_t blocks = (search.slots + kThreads - 1) / kThreads;
  if (search.batch * blocks == 0) return nullptr;
  if (search.batch * blocks > INT_MAX) return "too many queries for one launch";
  search_kernel<T, D><<<static_cast<unsigned>(search.batch * blocks), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      search, static_cast<uint32_t>(blocks));
  const cudaError_t status = cudaGetLastError();
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

template const char* tree_search_cuda<float, 3>(const TreeSearch<float>&, void*);
template const char* tree_search_cuda<float, 4>(const TreeSearch<float>&, void*);
template const char* tree_search_cuda<double, 3>(const TreeSearch<double>&, void*);
template const char* tree_search_cuda<double, 4>(const TreeSearch<double>&, void*);
