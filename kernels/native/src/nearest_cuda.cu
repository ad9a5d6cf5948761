// One thread per query; the targets pass through shared memory tile by tile. Every output element is owned
// by one thread and the targets are visited in order: the same bits in every run, and as on the CPU.
#include <cuda_runtime.h>

#include "nearest.h"

namespace {

constexpr int kThreads = 128;

template <typename T>
__device__ T squared_distance(T x, T y, T z, const T* target) {
  const T dx = x - target[0], dy = y - target[1], dz = z - target[2];
  return dx * dx + dy * dy + dz * dz;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    search(const T* __restrict__ x, const T* __restrict__ y, T* distance, int64_t* index, int64_t n, int64_t m) {
  __shared__ T tile[3 * kThreads];
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  const int64_t query = i < n ? i : n - 1;
  const T qx = x[3 * query], qy = x[3 * query + 1], qz = x[3 * query + 2];
  T best = static_cast<T>(INFINITY);
  int64_t found = 0;
  for (int64_t start = 0; start < m; start += kThreads) {
    const int count = static_cast<int>(m - start < kThreads ? m - start : kThreads);
    __syncthreads();
    for (int k = threadIdx.x; k < 3 * count; k += kThreads) tile[k] = y[3 * start + k];
    __syncthreads();
    for (int k = 0; k < count; ++k) {
      const T d = squared_distance(qx, qy, qz, tile + 3 * k);
      if (d < best) {
        best = d;
        found = start + k;
      }
    }
  }
  if (i < n) {
    distance[i] = squared_distance(qx, qy, qz, y + 3 * found);
    index[i] = found;
  }
}

}  // namespace

template <typename T>
const char* nearest_cuda(const T* x, const T* y, T* distance, int64_t* index, int64_t n, int64_t m, void* stream) {
  if (n == 0) return nullptr;
  const int64_t blocks = (n + kThreads - 1) / kThreads;
  if (blocks > 0x7fffffff) return "too many queries for one launch";
  search<T><<<static_cast<unsigned>(blocks), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      x, y, distance, index, n, m);
  const cudaError_t status = cudaGetLastError();
  return status == cudaSuccess ? nullptr : cudaGetErrorString(status);
}

template const char* nearest_cuda(const float*, const float*, float*, int64_t*, int64_t, int64_t, void*);
template const char* nearest_cuda(const double*, const double*, double*, int64_t*, int64_t, int64_t, void*);
