// The GPU's tree search on a CPU, query by query: to try it, and to count what it meets. The CPU's own search, of
// several queries at a time through trees that are cut at medians, is in nearest_tree_cpu.cpp.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "tree_search.h"

namespace {

constexpr int64_t kTask = 1024;  // queries handed out at once

struct Count {
  int32_t groups = 0, leaves = 0;
  void group() { ++groups; }
  void leaf() { ++leaves; }
};

template <typename Answer>
void for_every_slot(int64_t slots, int64_t batch, const Answer& answer_one) {
  torch::stable::parallel_for(0, batch * slots, kTask, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) answer_one(at / slots, at % slots);
  });
}

}  // namespace

template <typename T, int D>
void tree_search_cpu(const TreeSearch<T>& search) {
  for_every_slot(search.slots, search.batch, [&](int64_t clip, int64_t slot) {
    NoVisits none;
    answer<T, D>(search, clip, slot, none);
  });
}

template <typename T, int D>
void tree_visits_cpu(const TreeSearch<T>& search, int32_t* visits) {
  for_every_slot(search.slots, search.batch, [&](int64_t clip, int64_t slot) {
    Count count;
    answer<T, D>(search, clip, slot, count);
    const int64_t at = search.x_order[clip * search.slots + slot];
    if (at >= search.n) return;
    visits[2 * (clip * search.n + at)] = count.groups;
    visits[2 * (clip * search.n + at) + 1] = count.leaves;
  });
}

#define INSTANTIATE(T, D)                                   \
  template void tree_search_cpu<T, D>(const TreeSearch<T>&); \
  template void tree_visits_cpu<T, D>(const TreeSearch<T>&, int32_t*);
INSTANTIATE(float, 3)
INSTANTIATE(float, 4)
INSTANTIATE(double, 3)
INSTANTIATE(double, 4)
