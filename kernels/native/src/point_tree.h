// A balanced tree of boxes over the finite points of one cloud, for exact nearest-neighbour search.
//
// Points are split at the median of the widest axis of their box until a leaf is left, so that neither clusters nor
// outliers nor flat or repeated points make it deep; the points of a node lie side by side in memory. Every node knows
// its exact box and the lowest index inside, which lets a search drop boxes that could only repeat a tie.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

constexpr int32_t kLeaf = 8;

template <typename T, int D>
struct TreePoint {
  T at[D];
  int32_t index;  // in the cloud as given
};

template <typename T, int D>
struct TreeNode {
  T low[D], high[D];
  T split;        // inner nodes: where the right half begins on `axis`
  int32_t axis;   // -1: a leaf
  int32_t right;  // the right child; the left one is the next node
  int32_t first;  // the lowest index inside
  int32_t begin, end;
};

template <typename T, int D>
class PointTree {
 public:
  using Point = TreePoint<T, D>;
  using Node = TreeNode<T, D>;
  struct Part {  // a node to be made, with its points
    int32_t node, begin, end;
  };

  // Takes the finite points of [count, D]; others can be nobody's nearest neighbour.
  void gather(const T* cloud, int64_t count) {
    points_.reset(new Point[count]);
    size_ = 0;
    for (int64_t i = 0; i < count; ++i, cloud += D) {
      Point& point = points_[size_];
      bool finite = true;
      for (int axis = 0; axis < D; ++axis) {
        point.at[axis] = cloud[axis];
        finite &= std::abs(cloud[axis]) <= std::numeric_limits<T>::max();
      }
      point.index = static_cast<int32_t>(i);
      size_ += finite;
    }
    nodes_.reset(size_ ? new Node[2 * leaves(size_) - 1] : nullptr);
  }

  int32_t size() const { return size_; }
  const Point* points() const { return points_.get(); }
  const Node* nodes() const { return nodes_.get(); }
  Part root() const { return {0, 0, size_}; }

  // Makes one node: its box and, unless it is a leaf, two halves, which are left to the caller.
  bool divide(const Part& part, Part& left, Part& right) {
    Node& node = nodes_[part.node];
    enclose(part, node);
    const int32_t count = part.end - part.begin;
    if (count <= kLeaf) return false;
    const int32_t left_leaves = (leaves(count) / 2 + 1) / 2 * 2;  // even: groups of two leaves stay together
    const int32_t before = leaves(count) == 2 ? 1 : left_leaves;
    int axis = 0;
    for (int a = 1; a < D; ++a) {
      if (node.high[a] - node.low[a] > node.high[axis] - node.low[axis]) axis = a;
    }
    Point* first = points_.get() + part.begin;
    select(first, count, before * kLeaf, axis);
    node.axis = axis;
    node.split = first[before * kLeaf].at[axis];
    node.right = part.node + 2 * before;
    left = {part.node + 1, part.begin, part.begin + before * kLeaf};
    right = {node.right, left.end, part.end};
    return true;
  }

  void grow(const Part& part) {
    Part left, right;
    if (!divide(part, left, right)) return;
    grow(left);
    grow(right);
  }

 private:
  static int32_t leaves(int32_t count) { return (count + kLeaf - 1) / kLeaf; }

  // std::nth_element by coordinate, several times as fast on many points: pivots from samples leave little beside the
  // wanted one after two passes, and passes do not branch on coordinates.
  static void select(Point* points, int32_t count, int32_t wanted, int axis) {
    constexpr int32_t kFew = 32, kSample = 128, kPasses = 40;
    constexpr size_t kKept = 1 << 20;  // points of scratch that a thread keeps
    thread_local std::vector<Point> aside;
    if (count > kFew && static_cast<int32_t>(aside.size()) < count) aside.resize(count);
    for (int pass = 0; count > kFew && pass < kPasses; ++pass) {
      const int32_t size = std::min(kSample, count / 8), step = count / size;
      T sample[kSample];
      for (int32_t i = 0; i < size; ++i) sample[i] = points[i * step + step / 2].at[axis];
      const int32_t margin = size / 8 + 1;  // so that the wanted one stays on the smaller side of the next pivot
      int32_t rank = static_cast<int32_t>(static_cast<int64_t>(wanted) * size / count);
      rank = std::clamp(2 * wanted < count ? rank + margin : rank - margin, 0, size - 1);
      std::nth_element(sample, sample + rank, sample + size);
      const T pivot = sample[rank];
      int32_t less = partition(points, count, aside.data(), axis, [=](T at) { return at < pivot; });
      if (less == 0) {  // the pivot is the least of all: its equals go first
        less = partition(points, count, aside.data(), axis, [=](T at) { return at <= pivot; });
        if (wanted < less) count = wanted = 0;  // the wanted one is among them
        if (count == 0) break;
      }
      if (wanted < less) {
        count = less;
      } else {
        points += less;
        count -= less;
        wanted -= less;
      }
    }
    if (aside.size() > kKept) std::vector<Point>().swap(aside);
    std::nth_element(points, points + wanted, points + count,
                     [axis](const Point& a, const Point& b) { return a.at[axis] < b.at[axis]; });
  }

  // Moves the points that go left to the front; returns how many.
  template <typename Left>
  static int32_t partition(Point* points, int32_t count, Point* aside, int axis, const Left& goes_left) {
    int32_t left = 0, right = 0;
    for (int32_t i = 0; i < count; ++i) {
      const bool is_left = goes_left(points[i].at[axis]);
      const Point point = points[i];
      points[left] = point;
      aside[right] = point;
      left += is_left;
      right += !is_left;
    }
    std::memcpy(points + left, aside, right * sizeof(Point));
    return left;
  }

  void enclose(const Part& part, Node& node) const {
    constexpr int kWidth = 16 / sizeof(T), kParts = 4 / kWidth;  // no wider than registers are everywhere
    typedef T Few __attribute__((vector_size(16)));
    static_assert(sizeof(Point) >= kParts * sizeof(Few));
    const Point* point = points_.get() + part.begin;
    Few low[kParts], high[kParts], here[kParts];  // of three dimensions the fourth lane is noise that nobody reads
    std::memcpy(low, point, sizeof(low));
    std::memcpy(high, point, sizeof(high));
    int32_t first = point->index;
    for (const Point* end = points_.get() + part.end; ++point < end;) {
      std::memcpy(here, point, sizeof(here));
      for (int i = 0; i < kParts; ++i) {
        low[i] = here[i] < low[i] ? here[i] : low[i];
        high[i] = here[i] > high[i] ? here[i] : high[i];
      }
      first = std::min(first, point->index);
    }
    for (int axis = 0; axis < D; ++axis) {
      node.low[axis] = low[axis / kWidth][axis % kWidth];
      node.high[axis] = high[axis / kWidth][axis % kWidth];
    }
    node.axis = -1;
    node.first = first;
    node.begin = part.begin;
    node.end = part.end;
  }

  std::unique_ptr<Point[]> points_;
  std::unique_ptr<Node[]> nodes_;
  int32_t size_ = 0;
};
