// A task takes a segment: tokens that share a row of the tables, of a length that does not depend on threads. It adds up
// what they give to the row, in order; a row of many segments is the sum of theirs, in order.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "adaptive_norm.h"
#include "token_modulation.h"

namespace phys4d {
namespace {

constexpr int64_t kBlock = 1024;  // sums that a task adds up over segments

struct Segment {
  int64_t row, begin, end;
  float* sums;  // [parts, C]
};

// A row of several segments, from `first` on in the partial sums.
struct Shared {
  int64_t row, first, segments;
};

int64_t parts(const NormBackward& in) { return 2 * in.tables + (in.y.data != nullptr); }

// Tokens of a segment at most: enough that few sums are kept, few enough that many threads find work.
int64_t longest(const NormBackward& in) { return std::max<int64_t>(32, (in.sizes.total + 255) / 256); }

// Tokens of a row: from where to where in order, or, without one, in memory.
struct Range {
  int64_t begin, end;
};
Range range(const RowsOfTokens& of, int64_t row) {
  if (of.order == nullptr) return {row * of.run, (row + 1) * of.run};
  const int32_t first = of.begins[row], last = of.begins[row + 1];
  if (first == last) return {0, 0};
  return {of.segments[3 * first + 1], of.segments[3 * (last - 1) + 2]};
}

struct Plan {
  std::vector<Segment> segments;
  std::vector<Shared> shared;
};

Plan plan(const NormBackward& in, float* sums, float* partial) {
  const int64_t each = parts(in) * in.sizes.width, length = longest(in);
  Plan found;
  int64_t place = 0;
  for (int64_t row = 0; row < in.of.rows; ++row) {
    const auto [begin, end] = range(in.of, row);
    const int64_t count = (end - begin + length - 1) / length;
    if (count == 0) std::fill(sums + row * each, sums + (row + 1) * each, 0.0f);
    if (count > 1) found.shared.push_back({row, place, count});
    for (int64_t k = 0; k < count; ++k) {
      float* to = count == 1 ? sums + row * each : partial + place++ * each;
      found.segments.push_back({row, begin + k * length, std::min(begin + (k + 1) * length, end), to});
    }
  }
  return found;
}

// The gradient of what was normed, from that of the result; `unit` is what was modulated.
template <typename X>
ALWAYS void through_modulation(const X* stream, const X* dout, const float* factor, float mean, float rate, int64_t n,
                               float* __restrict unit, float* __restrict dx) {
  for (int64_t i = 0; i < n; ++i) {
    unit[i] = (widened(stream[i]) - mean) * rate;
    dx[i] = widened(dout[i]) * factor[i];
  }
}

ALWAYS void through_norm(const float* unit, float along, float middle, float rate, int64_t n, float* __restrict dx) {
  for (int64_t i = 0; i < n; ++i) dx[i] = (dx[i] - middle - unit[i] * along) * rate;
}

// to gets the products of x and y, the first of them or one more.
template <typename X>
ALWAYS void add_products(const X* x, const float* y, bool first, int64_t n, float* __restrict to) {
  if (first) {
    for (int64_t i = 0; i < n; ++i) to[i] = widened(x[i]) * y[i];
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] += widened(x[i]) * y[i];
  }
}

template <typename X>
ALWAYS void add_numbers(const X* x, bool first, int64_t n, float* __restrict to) {
  if (first) {
    for (int64_t i = 0; i < n; ++i) to[i] = widened(x[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) to[i] += widened(x[i]);
  }
}

template <typename X>
ALWAYS void keep(const float* x, int64_t n, X* __restrict to) {
  for (int64_t i = 0; i < n; ++i) to[i] = narrowed<X>(x[i]);
}

template <typename X>
ALWAYS void keep_products(const float* x, const float* y, int64_t n, X* __restrict to) {
  for (int64_t i = 0; i < n; ++i) to[i] = narrowed<X>(x[i] * y[i]);
}

// Where a token of a segment lies, and what is worked on of it.
struct At {
  int64_t token, clip, place;
  bool first;  // of the segment
};

ALWAYS At at_position(const NormBackward& in, const Segment& segment, int64_t position) {
  const int64_t token = in.of.order == nullptr ? position : in.of.order[position];
  return {token, token / in.sizes.count, token % in.sizes.count, position == segment.begin};
}

struct Token {
  alignas(64) float unit[kRoom], dx[kRoom];
  float along, middle, rate;  // means of dx * unit and of dx; 1 / deviation
};

// Back to what was normed, with the sums of factor and offset.
template <typename X>
ALWAYS void through_result(const NormBackward& in, const At& of, const Modulation& by, float* sums, Token& to) {
  const int64_t n = in.sizes.width;
  const bool normed = in.norm != TokenNorm::kNone;
  const float mean = normed ? in.stats[2 * of.token] : 0.0f;
  to.rate = normed ? in.stats[2 * of.token + 1] : 1.0f;
  Sum along, middle;
  for (int64_t at = 0; at < n; at += kChunk) {
    const int64_t some = std::min(kChunk, n - at);
    prefetch(in.dstream, of.clip, of.place, at, some);
    prefetch(in.y, of.clip, of.place, at, some);
    const X* dout = in.dout.at<X>(of.clip, of.place) + at;
    float *unit = to.unit + at, *dx = to.dx + at;
    through_modulation(in.stream.at<X>(of.clip, of.place) + at, dout, by.factor + at, mean, to.rate, some, unit, dx);
    if (in.tables) {
      add_products(dout, unit, of.first, some, sums + at);
      add_numbers(dout, of.first, some, sums + n + at);
    }
    add_products_to(along, dx, unit, some);
    if (in.norm == TokenNorm::kLayer) add_to(middle, dx, some);
  }
  to.along = along.total() / float(n);
  to.middle = middle.total() / float(n);
}

template <typename X>
ALWAYS void backward_segment(const NormBackward& in, const NormGradients& to, const Segment& segment, Modulation& by) {
  const int64_t n = in.sizes.width;
  const bool whole = in.dout.data != nullptr;
  Token token;
  if (segment.row != by.row) {
    if (in.gate.data != nullptr) take_gate(in.gate, segment.row, n, by);
    if (whole) take_factor(in.scale, in.weight, segment.row, n, by);
    by.row = segment.row;
  }
  for (int64_t position = segment.begin; position < segment.end; ++position) {
    const At of = at_position(in, segment, position);
    const At next = at_position(in, segment, std::min(position + 1, segment.end - 1));
    if (whole) through_result<X>(in, of, by, segment.sums, token);
    for (int64_t at = 0; at < n; at += kChunk) {
      const int64_t some = std::min(kChunk, n - at);
      if (whole) {
        prefetch(in.stream, next.clip, next.place, at, some);
        prefetch(in.dout, next.clip, next.place, at, some);
      }
      float* dx = token.dx + at;
      if (whole && in.norm != TokenNorm::kNone) {
        through_norm(token.unit + at, token.along, token.middle, token.rate, some, dx);
      }
      if (in.dstream.data != nullptr) add_numbers(in.dstream.at<X>(of.clip, of.place) + at, !whole, some, dx);
      const int64_t place = of.token * n + at;
      keep(dx, some, static_cast<X*>(to.dx) + place);
      if (to.dy != nullptr && to.half_dy) keep_products(dx, by.gate + at, some, static_cast<BFloat16*>(to.dy) + place);
      if (to.dy != nullptr && !to.half_dy) keep_products(dx, by.gate + at, some, static_cast<float*>(to.dy) + place);
      with_row(in.y, of.clip, of.place, [&](const auto* y) ALWAYS_INLINE {
        add_products(y + at, dx, of.first, some, segment.sums + 2 * in.tables * n + at);
      });
    }
  }
}

INSTRUCTION_SETS void floats(const NormBackward& in, const NormGradients& to, const Segment* begin, const Segment* end) {
  Modulation by;
  for (; begin < end; ++begin) backward_segment<float>(in, to, *begin, by);
}
INSTRUCTION_SETS void halves(const NormBackward& in, const NormGradients& to, const Segment* begin, const Segment* end) {
  Modulation by;
  for (; begin < end; ++begin) backward_segment<BFloat16>(in, to, *begin, by);
}

INSTRUCTION_SETS void add_up(const float* partial, int64_t segments, int64_t apart, int64_t n, float* __restrict sums) {
  std::copy(partial, partial + n, sums);
  for (int64_t k = 1; k < segments; ++k) {
    for (int64_t i = 0; i < n; ++i) sums[i] += partial[k * apart + i];
  }
}

}  // namespace

int64_t adaptive_norm_partial(const NormBackward& in) {
  if (parts(in) == 0) return 0;
  const int64_t length = longest(in);
  int64_t found = 0;
  for (int64_t row = 0; row < in.of.rows; ++row) {
    const auto [begin, end] = range(in.of, row);
    if (end - begin > length) found += (end - begin + length - 1) / length;
  }
  return found;
}

void adaptive_norm_backward_cpu(const NormBackward& in, const NormGradients& out, float* partial) {
  const auto [segments, shared] = plan(in, out.sums, partial);
  const int64_t count = static_cast<int64_t>(segments.size()), each = parts(in) * in.sizes.width;
  if (count == 0) return;
  const int64_t grain = 1 + kGrain * count / (in.sizes.total * in.sizes.width);
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    if (out.half_dx) {
      halves(in, out, segments.data() + begin, segments.data() + end);
    } else {
      floats(in, out, segments.data() + begin, segments.data() + end);
    }
  });
  const int64_t blocks = (each + kBlock - 1) / kBlock, tasks = static_cast<int64_t>(shared.size()) * blocks;
  if (tasks == 0) return;
  torch::stable::parallel_for(0, tasks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto [row, first, number] = shared[i / blocks];
      const int64_t at = i % blocks * kBlock;
      add_up(partial + first * each + at, number, each, std::min(kBlock, each - at), out.sums + row * each + at);
    }
  });
}

}  // namespace phys4d
