// Exact nearest neighbours through a tree over each cloud. As many queries as a register has lanes, neighbours in their
// own tree, walk together through the other one, a lane each.
//
// The bits are those of the exhaustive search: a box is left out only if no point of it could win. Its bound takes the
// distance's own operations in their order, and rounding is monotone, so no point inside can come out nearer.
#include "nearest_tree.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "instruction_sets.h"
#include "lanes.h"
#include "point_tree.h"

namespace {

constexpr int32_t kTask = 1024;              // queries handed out at once
constexpr int kRounds = 5;                   // levels of a tree that are split with all threads, before subtrees
constexpr int64_t kAlone = 1 << 12;              // points that one thread is done with sooner than several would start
constexpr int64_t kTogether = int64_t{1} << 21;  // points in trees at once: bounds the memory of a long batch

template <int kBytes, typename Flags>
ALWAYS bool any(const Flags& flags) {
  typedef uint64_t Two __attribute__((vector_size(16)));
  Two parts[kBytes / 16], all{};
  std::memcpy(parts, &flags, kBytes);
  for (const Two& part : parts) all |= part;
  return (all[0] | all[1]) != 0;
}

// The nearest of the tree's points to each lane's query: squared distance and index, infinity and 0 where none wins.
template <typename T, int D, int kBytes, typename Value = typename Lanes<T, kBytes>::Value,
          typename Index = typename Lanes<T, kBytes>::Index>
ALWAYS void walk(const TreePoint<T, D>* points, const TreeNode<T, D>* nodes, const Value* query, const T* middle,
                 Value& distance, Index& index) {
  Value best = Value{} + std::numeric_limits<T>::infinity();
  // Every comparison is used at once: compilers take masks that are kept or combined apart into single lanes.
  const Index never = Index{} + std::numeric_limits<int32_t>::max();
  Index found{};
  int32_t stack[64];
  int height = 0;
  stack[height++] = 0;
  while (height) {
    const TreeNode<T, D>& node = nodes[stack[--height]];
    Value bound{};
    for (int axis = 0; axis < D; ++axis) {
      const Value below = node.low[axis] - query[axis], above = query[axis] - node.high[axis];
      Value gap = below > above ? below : above;
      gap = gap > 0 ? gap : Value{};
      bound = axis ? bound + gap * gap : gap * gap;
    }
    Index reach = bound == best ? Index{} + node.first : never;
    reach = bound < best ? Index{} - 1 : reach;
    if (!any<kBytes>(reach < found ? Index{} + 1 : Index{})) continue;
    if (node.axis >= 0) {
      const int32_t left = stack[height] + 1, right = node.right;
      const T side = middle[node.axis] - node.split;  // points that repeat lie on both: then the lowest index first
      const bool right_first = side > 0 || (side == 0 && nodes[right].first < nodes[left].first);
      stack[height++] = right_first ? left : right;
      stack[height++] = right_first ? right : left;
      continue;
    }
    for (int32_t at = node.begin; at < node.end; ++at) {
      const TreePoint<T, D>& point = points[at];
      const Value d0 = query[0] - point.at[0], d1 = query[1] - point.at[1], d2 = query[2] - point.at[2];
      Value d = d0 * d0 + d1 * d1 + d2 * d2;
      if constexpr (D == 4) {
        const Value d3 = query[3] - point.at[3];
        d = d + d3 * d3;
      }
      const Index here = Index{} + point.index;
      const Index tie = d == best ? here : never;
      found = tie < found ? tie : found;
      found = d < best ? here : found;
      best = d < best ? d : best;
    }
  }
  distance = best;
  index = found;
}

template <int kBytes, typename T, int D>
ALWAYS void find(const PointTree<T, D>& from, const PointTree<T, D>& to, int32_t begin, int32_t end, T* distance,
                 int64_t* index) {
  constexpr int32_t group = kBytes / sizeof(T);
  typename Lanes<T, kBytes>::Value query[D], best;
  typename Lanes<T, kBytes>::Index found;
  for (int32_t first = begin; first < end; first += group) {
    const int32_t count = std::min(group, end - first);
    const TreePoint<T, D>* point = from.points() + first;
    T lanes[D][group];
    for (int32_t lane = 0; lane < group; ++lane) {
      for (int axis = 0; axis < D; ++axis) lanes[axis][lane] = point[std::min(lane, count - 1)].at[axis];
    }
    std::memcpy(query, lanes, sizeof(lanes));
    walk<T, D, kBytes>(to.points(), to.nodes(), query, point[count / 2].at, best, found);
    for (int32_t lane = 0; lane < count; ++lane) {
      if (best[lane] < std::numeric_limits<T>::infinity()) {
        distance[point[lane].index] = best[lane];
        index[point[lane].index] = found[lane];
      }
    }
  }
}

#define FIND_IN(TARGET, BYTES, T, D)                                                                        \
  TARGET void find_range(const PointTree<T, D>& from, const PointTree<T, D>& to, int32_t begin, int32_t end, \
                         T* distance, int64_t* index) {                                                      \
    find<BYTES>(from, to, begin, end, distance, index);                                                      \
  }
#define FIND(TARGET, BYTES)        \
  FIND_IN(TARGET, BYTES, float, 3)  \
  FIND_IN(TARGET, BYTES, float, 4)  \
  FIND_IN(TARGET, BYTES, double, 3) \
  FIND_IN(TARGET, BYTES, double, 4)
BY_REGISTER(FIND)

// Index 0 and its distance for all: what stays for queries that no distance can win.
template <typename T, int D>
void fill(const T* x, const T* y, int64_t n, T* distance, int64_t* index) {
  for (int64_t i = 0; i < n; ++i) {
    T total = (x[D * i] - y[0]) * (x[D * i] - y[0]);
    for (int axis = 1; axis < D; ++axis) {
      const T difference = x[D * i + axis] - y[axis];
      total = total + difference * difference;
    }
    distance[i] = total;
    index[i] = 0;
  }
}

template <typename T, int D>
void grow_all(std::vector<PointTree<T, D>>& trees, int64_t grain) {
  using Part = typename PointTree<T, D>::Part;
  struct Branch {
    int64_t tree;
    Part part;
  };
  std::vector<Branch> open;
  for (size_t tree = 0; tree < trees.size(); ++tree) {
    if (trees[tree].size()) open.push_back({static_cast<int64_t>(tree), trees[tree].root()});
  }
  const size_t enough = 8 * torch::stable::get_num_threads();
  for (int round = 0; grain == 1 && round < kRounds && open.size() < enough; ++round) {
    std::vector<Branch> next(2 * open.size());
    std::vector<char> inner(open.size());
    torch::stable::parallel_for(0, static_cast<int64_t>(open.size()), grain, [&](int64_t begin, int64_t end) {
      for (int64_t at = begin; at < end; ++at) {
        Branch &left = next[2 * at], &right = next[2 * at + 1];
        left.tree = right.tree = open[at].tree;
        inner[at] = trees[open[at].tree].divide(open[at].part, left.part, right.part);
      }
    });
    std::vector<Branch> kept;
    for (size_t at = 0; at < inner.size(); ++at) {
      if (inner[at]) kept.insert(kept.end(), {next[2 * at], next[2 * at + 1]});
    }
    open.swap(kept);
  }
  torch::stable::parallel_for(0, static_cast<int64_t>(open.size()), grain, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) trees[open[at].tree].grow(open[at].part);
  });
}

template <typename T, int D>
void search_together(const Search<T>* searches, int64_t count) {
  int64_t points = 0;
  for (int64_t at = 0; at < count; ++at) points += searches[at].n + searches[at].m;
  const int64_t grain = points < kAlone ? std::numeric_limits<int64_t>::max() / 2 : 1;
  std::vector<PointTree<T, D>> trees(2 * count);
  torch::stable::parallel_for(0, 2 * count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      const Search<T>& search = searches[at / 2];
      if (search.n == 0 || search.m == 0) continue;
      const bool of_y = at % 2;
      trees[at].gather(of_y ? search.y : search.x, of_y ? search.m : search.n);
      if (!of_y) fill<T, D>(search.x, search.y, search.n, search.x_distance, search.x_index);
      if (of_y && search.y_index) fill<T, D>(search.y, search.x, search.m, search.y_distance, search.y_index);
    }
  });
  grow_all(trees, grain);
  struct Task {
    int64_t tree;
    int32_t begin, end;
  };
  std::vector<Task> tasks;
  for (int64_t at = 0; at < 2 * count; ++at) {
    if (trees[at ^ 1].size() == 0 || (at % 2 && !searches[at / 2].y_index)) continue;
    for (int32_t begin = 0; begin < trees[at].size(); begin += kTask) {
      tasks.push_back({at, begin, std::min(begin + kTask, trees[at].size())});
    }
  }
  torch::stable::parallel_for(0, static_cast<int64_t>(tasks.size()), grain, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      const Task& task = tasks[at];
      const Search<T>& search = searches[task.tree / 2];
      const bool of_y = task.tree % 2;
      find_range(trees[task.tree], trees[task.tree ^ 1], task.begin, task.end,
                 of_y ? search.y_distance : search.x_distance, of_y ? search.y_index : search.x_index);
    }
  });
}

}  // namespace

template <typename T, int D>
void nearest_in_trees(const std::vector<Search<T>>& searches) {
  for (size_t begin = 0, end = 0; begin < searches.size(); begin = end) {
    int64_t points = 0;
    do {
      points += searches[end].n + searches[end].m;
    } while (++end < searches.size() && points < kTogether);
    search_together<T, D>(searches.data() + begin, static_cast<int64_t>(end - begin));
  }
}

template void nearest_in_trees<float, 3>(const std::vector<Search<float>>&);
template void nearest_in_trees<float, 4>(const std::vector<Search<float>>&);
template void nearest_in_trees<double, 3>(const std::vector<Search<double>>&);
template void nearest_in_trees<double, 4>(const std::vector<Search<double>>&);
