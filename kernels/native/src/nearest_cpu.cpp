// Each lane of a vector owns one query and walks over all targets, which are broadcast: no reduction across
// lanes, so ties go to the lowest index and the result does not depend on threads or vector width.
#include "nearest.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <limits>

#include "instruction_sets.h"
#include "lanes.h"

namespace {

constexpr int64_t kVectors = 2;              // queries in flight share each broadcast of a target
constexpr int64_t kSpan = int64_t{1} << 30;  // targets per pass: 32-bit lane indices cannot overflow
constexpr int64_t kPairsPerTask = 1 << 16;   // smaller tasks cost more to hand out than to do

template <typename T>
constexpr int64_t kBlock = 128 / sizeof(T);  // queries handed out together

// index[kBlock] of the targets nearest to the queries [3][kBlock], in vectors of kBytes.
template <int kBytes, typename T>
ALWAYS void search(const T* queries, const T* y, int64_t m, int64_t* index) {
  using Value = typename Lanes<T, kBytes>::Value;
  using Index = typename Lanes<T, kBytes>::Index;
  constexpr int64_t kWidth = kBytes / sizeof(T), kFlight = kVectors * kWidth;
  std::fill(index, index + kBlock<T>, 0);
  for (int64_t first = 0; first < kBlock<T>; first += kFlight, queries += kFlight, index += kFlight) {
    Value qx[kVectors], qy[kVectors], qz[kVectors], best[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) {
      __builtin_memcpy(&qx[v], queries + v * kWidth, kBytes);
      __builtin_memcpy(&qy[v], queries + kBlock<T> + v * kWidth, kBytes);
      __builtin_memcpy(&qz[v], queries + 2 * kBlock<T> + v * kWidth, kBytes);
      best[v] = Value{} + std::numeric_limits<T>::infinity();
    }
    for (int64_t start = 0; start < m; start += kSpan) {
      const T* target = y + 3 * start;
      const int64_t count = std::min(kSpan, m - start);
      Index found[kVectors];
      for (int64_t v = 0; v < kVectors; ++v) found[v] = Index{} - 1;
      for (int64_t j = 0; j < count; ++j, target += 3) {
        const Index here = Index{} + static_cast<decltype(found[0][0] + 0)>(j);
        for (int64_t v = 0; v < kVectors; ++v) {
          const Value dx = qx[v] - target[0], dy = qy[v] - target[1], dz = qz[v] - target[2];
          const Value d = dx * dx + dy * dy + dz * dz;
          const auto closer = d < best[v];
          best[v] = closer ? d : best[v];
          found[v] = closer ? here : found[v];
        }
      }
      for (int64_t lane = 0; lane < kFlight; ++lane) {
        const int64_t at = found[lane / kWidth][lane % kWidth];
        if (at >= 0) index[lane] = start + at;
      }
    }
  }
}

#define SEARCH(TARGET, BYTES)                                                                   \
  TARGET void search_block(const float* queries, const float* y, int64_t m, int64_t* index) {   \
    search<BYTES>(queries, y, m, index);                                                        \
  }                                                                                             \
  TARGET void search_block(const double* queries, const double* y, int64_t m, int64_t* index) { \
    search<BYTES>(queries, y, m, index);                                                        \
  }
BY_REGISTER(SEARCH)

}  // namespace

template <typename T>
void nearest_cpu(const T* x, const T* y, T* distance, int64_t* index, int64_t n, int64_t m) {
  constexpr int64_t block = kBlock<T>;
  const int64_t grain = std::max<int64_t>(1, kPairsPerTask / (block * m));
  torch::stable::parallel_for(0, (n + block - 1) / block, grain, [&](int64_t begin, int64_t end) {
    T queries[3 * block];
    int64_t found[block];
    for (int64_t first = begin * block; first < std::min(end * block, n); first += block) {
      const int64_t count = std::min(block, n - first);
      for (int64_t lane = 0; lane < block; ++lane) {
        const T* query = x + 3 * (first + std::min(lane, count - 1));
        for (int64_t axis = 0; axis < 3; ++axis) queries[axis * block + lane] = query[axis];
      }
      search_block(queries, y, m, found);
      for (int64_t lane = 0; lane < count; ++lane) {
        const T* target = y + 3 * found[lane];
        const T dx = queries[lane] - target[0], dy = queries[block + lane] - target[1];
        const T dz = queries[2 * block + lane] - target[2];
        distance[first + lane] = dx * dx + dy * dy + dz * dz;
        index[first + lane] = found[lane];
      }
    }
  });
}

template void nearest_cpu(const float*, const float*, float*, int64_t*, int64_t, int64_t);
template void nearest_cpu(const double*, const double*, double*, int64_t*, int64_t, int64_t);
