// The nearest point of a tree to one query, the same code on a CPU and on a GPU. The arrays are those that
// ../../geometry/clouds/point_tree.py makes.
//
// A walk without a stack: the tree is implicit, so that a node's number tells its children and its ancestors, and four
// bits a level, in one word, remember which children are still to be looked at. Of them the nearest is always next. A
// box is left out only if no point of it could win: its bound takes the distance's own operations in their order, and
// rounding is monotone, so no point inside can come out nearer; of boxes that could only repeat the best distance those
// are left out whose lowest index does not undercut the index found.
#pragma once
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define ON_BOTH __host__ __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#else
#define ON_BOTH inline
#define UNROLL _Pragma("GCC unroll 8")
#endif

constexpr int kChildren = 4;
constexpr int kLeafPoints = 8;

// The trees of a batch of clouds, of D dimensions, and the queries to them.
template <typename T>
struct TreeSearch {
  const T* x;                 // [batch, n, D]: the queries
  const int64_t* x_lengths;   // [batch]: those that count
  const int32_t* x_order;     // [batch, slots]: whose turn it is; n or more: nobody's
  const T* y;                 // [batch, m, D]: the points, as they were given
  const int64_t* y_lengths;   // [batch]
  const T* points;            // [batch, leaves, D, kLeafPoints]: in the tree's order, infinite where there is none
  const int32_t* order;       // [batch, leaves, kLeafPoints]: which of the points as given
  const T* boxes;             // [batch, groups, 2 D, kChildren]: per inner node its children's least, and minus greatest
  const int32_t* first;       // [batch, groups, kChildren]: the lowest index inside
  T* squares;                 // [batch, n]
  int64_t* index;             // [batch, n]
  int64_t batch, n, m, slots, leaves, groups;
  int32_t first_leaf;         // the number of the first leaf as a node
};

// What a walk met; of no interest to those who want speed.
struct NoVisits {
  ON_BOTH void group() {}
  ON_BOTH void leaf() {}
};

template <typename T>
struct alignas(16) Four {
  T at[4];
};

template <typename T>
ON_BOTH T largest() {
  return static_cast<T>(sizeof(T) == 4 ? static_cast<double>(FLT_MAX) : DBL_MAX);
}

template <typename T>
ON_BOTH T infinite() {
  return static_cast<T>(HUGE_VAL);
}

ON_BOTH int lowest_bit(uint64_t bits) {
#ifdef __CUDA_ARCH__
  return __ffsll(static_cast<long long>(bits)) - 1;
#else
  return __builtin_ctzll(bits);
#endif
}

template <typename T>
ON_BOTH T greater(T a, T b) {
  return a > b ? a : b;
}

// Squared distances from a query to each of four boxes, 0 inside, infinite to an empty one.
template <typename T, int D>
ON_BOTH void bounds_of(const T* boxes, const T* query, T* bounds) {
  const Four<T>* sides = reinterpret_cast<const Four<T>*>(boxes);
  UNROLL
  for (int axis = 0; axis < D; ++axis) {
    const Four<T> low = sides[axis], high = sides[D + axis];
    UNROLL
    for (int child = 0; child < kChildren; ++child) {
      const T gap = greater(greater(low.at[child] - query[axis], query[axis] + high.at[child]), T{0});
      bounds[child] = axis ? bounds[child] + gap * gap : gap * gap;
    }
  }
}

// Of the open children those that may hold something nearer, or as near with a lower index; and which is the nearest.
template <typename T>
ON_BOTH uint32_t wanted_of(const T* bounds, const int32_t* first, T best, int32_t found, uint32_t open,
                           uint32_t& nearest) {
  uint32_t wanted = 0, ties = 0;
  UNROLL
  for (int child = 0; child < kChildren; ++child) {
    wanted |= static_cast<uint32_t>(bounds[child] <= best) << child;
    ties |= static_cast<uint32_t>(bounds[child] == best) << child;
  }
  wanted &= open;
  if (ties & wanted) {  // seldom, so that these indices are seldom read
    UNROLL
    for (int child = 0; child < kChildren; ++child) {
      if ((ties & wanted) >> child & 1 && first[child] >= found) wanted &= ~(1u << child);
    }
  }
  T least = infinite<T>();
  UNROLL
  for (int child = 0; child < kChildren; ++child) {
    const bool nearer = (wanted >> child & 1) && bounds[child] < least;
    least = nearer ? bounds[child] : least;
    nearest = nearer ? child : nearest;
  }
  return wanted;
}

// Lets the points of a leaf compete for a query's best distance, and of equal ones the lowest index.
template <typename T, int D>
ON_BOTH void compare_leaf(const T* points, const int32_t* order, const T* query, T& best, int32_t& found) {
  const Four<T>* rows = reinterpret_cast<const Four<T>*>(points);
  constexpr int kFours = kLeafPoints / 4;
  T squares[kLeafPoints], least = largest<T>();
  UNROLL
  for (int four = 0; four < kFours; ++four) {
    UNROLL
    for (int axis = 0; axis < D; ++axis) {
      const Four<T> row = rows[axis * kFours + four];
      UNROLL
      for (int lane = 0; lane < 4; ++lane) {
        const T difference = query[axis] - row.at[lane];
        T& total = squares[4 * four + lane];
        total = axis ? total + difference * difference : difference * difference;
      }
    }
    UNROLL
    for (int lane = 0; lane < 4; ++lane) least = squares[4 * four + lane] < least ? squares[4 * four + lane] : least;
  }
  if (least > best) return;
  int32_t lowest = INT_MAX;
  UNROLL
  for (int at = 0; at < kLeafPoints; ++at) {
    if (squares[at] == least && order[at] < lowest) lowest = order[at];
  }
  if (least < best || lowest < found) {
    found = lowest;
    best = least;
  }
}

// The index of the nearest point of a clip's tree to a finite query and its squared distance; where no distance is
// finite, INT_MAX.
template <typename T, int D, typename Visits>
ON_BOTH int32_t search_tree(const TreeSearch<T>& search, int64_t clip, const T* query, T& best, Visits& visits) {
  const T* boxes = search.boxes + clip * search.groups * (2 * D * kChildren);
  const int32_t* first = search.first + clip * search.groups * kChildren;
  const T* points = search.points + clip * search.leaves * (D * kLeafPoints);
  const int32_t* order = search.order + clip * search.leaves * kLeafPoints;
  int32_t found = INT_MAX;
  best = largest<T>();
  uint32_t node = 0, open = (1u << kChildren) - 1;  // an inner node, and its children that are still to be looked at
  uint64_t trail = 0;                               // those of its ancestors, the parent's in the lowest four bits
  for (;;) {
    if (open == 0) {
      if (trail == 0) return found;
      const int up = lowest_bit(trail) / 4 + 1;  // to the lowest ancestor with a child left
      node = (node - (0x55555555u & ((1u << 2 * up) - 1))) >> 2 * up;
      trail >>= 4 * (up - 1);
      open = static_cast<uint32_t>(trail) & 15;
      trail >>= 4;
    }
    visits.group();
    T bounds[kChildren];
    bounds_of<T, D>(boxes + static_cast<int64_t>(node) * (2 * D * kChildren), query, bounds);
    const uint32_t children = node * kChildren + 1;
    while (true) {  // once, or over leaves while there are some to compare
      uint32_t nearest = 0;
      open = wanted_of(bounds, first + static_cast<int64_t>(node) * kChildren, best, found, open, nearest);
      if (open == 0) break;
      open &= ~(1u << nearest);
      if (children < static_cast<uint32_t>(search.first_leaf)) {
        trail = trail << 4 | open;
        node = children + nearest;
        open = (1u << kChildren) - 1;
        break;
      }
      const int64_t leaf = children + nearest - search.first_leaf;
      visits.leaf();
      compare_leaf<T, D>(points + leaf * (D * kLeafPoints), order + leaf * kLeafPoints, query, best, found);
    }
  }
}

// Answers the query of a slot: of points that no distance lets win the first, as the exhaustive search has it.
template <typename T, int D, typename Visits>
ON_BOTH void answer(const TreeSearch<T>& search, int64_t clip, int64_t slot, Visits& visits) {
  const int64_t at = search.x_order[clip * search.slots + slot];
  if (at >= search.n) return;
  T best = 0;
  int32_t found = 0;
  if (at < search.x_lengths[clip] && search.y_lengths[clip] > 0) {
    T query[D];
    bool finite = true;
    UNROLL
    for (int axis = 0; axis < D; ++axis) {
      query[axis] = search.x[(clip * search.n + at) * D + axis];
      finite = finite && query[axis] <= largest<T>() && query[axis] >= -largest<T>();
    }
    found = finite ? search_tree<T, D>(search, clip, query, best, visits) : INT_MAX;
    if (found == INT_MAX) {
      found = 0;
      UNROLL
      for (int axis = 0; axis < D; ++axis) {
        const T difference = query[axis] - search.y[clip * search.m * D + axis];
        best = axis ? best + difference * difference : difference * difference;
      }
    }
  }
  search.squares[clip * search.n + at] = best;
  search.index[clip * search.n + at] = found;
}

// Answers all queries; on the current device where the arrays are there: nullptr, or what went wrong.
template <typename T, int D>
void tree_search_cpu(const TreeSearch<T>& search);
template <typename T, int D>
void tree_visits_cpu(const TreeSearch<T>& search, int32_t* visits);  // [batch, n, 2]: groups of boxes, leaves
#ifdef PHYS4D_WITH_CUDA
template <typename T, int D>
const char* tree_search_cuda(const TreeSearch<T>& search, void* stream);
#endif
