#pragma once
#include <cstdint>
#include <vector>

// Two clouds [n, D] and [m, D] and where to put, for every point of one, its nearest point of the other: the index and
// the squared distance. Nothing is sought for y where y_index is null; where x or y is empty, nothing is written.
template <typename T>
struct Search {
  const T* x;
  const T* y;
  int64_t n, m;
  T* x_distance;
  int64_t* x_index;
  T* y_distance;
  int64_t* y_index;
};

// As nearest_cpu, to the bit (ties, values that are not numbers), in time n log m. D is 3 or 4; below 2^31 points.
template <typename T, int D>
void nearest_in_trees(const std::vector<Search<T>>& searches);
