#pragma once
#include <cstdint>

// Nearest neighbours by exhaustive search; nearest_tree.h gives the same bits from trees. For each of the n points of
// x [n, 3] the index of the point of y [m, 3], m > 0, at the smallest squared distance, the lowest such index, and that
// squared distance. A distance that is not a number never wins; where none wins, the index is 0.
template <typename T>
void nearest_cpu(const T* x, const T* y, T* distance, int64_t* index, int64_t n, int64_t m);
