// A task takes a segment: tokens that share a row of the tables, of a length that does not depend on threads. It adds up
// what they give to the row, in order; a row of many segments is the sum of theirs, in order.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <type_traits>
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

// Adds to a sum, or begins it.
template <bool kFirst>
ALWAYS void add_number(float x, float& to) {
  to = kFirst ? x : to + x;
}

// Back through the modulation, dx: to what was modulated, unit. Where wanted adds up the gradients of factor and offset.
template <bool kFirst, bool kTables, typename X>
ALWAYS void through_modulation(const X* stream, const X* dout, const float* factor, float mean, float rate, int64_t n,
                               float* __restrict unit, float* __restrict dx, float* __restrict dfactor,
                               float* __restrict doffset) {
  for (int64_t i = 0; i < n; ++i) {
    const float normed = (widened(stream[i]) - mean) * rate, d = widened(dout[i]);
    unit[i] = normed;
    dx[i] = d * factor[i];
    if constexpr (kTables) {
      add_number<kFirst>(d * normed, dfactor[i]);
      add_number<kFirst>(d, doffset[i]);
    }
  }
}

// Back through the norm, with what comes by the stream, if anything; dx stays in float32 where it is wanted still.
template <bool kStream, bool kKept, typename X>
ALWAYS void through_norm(const float* unit, float along, float middle, float rate, const X* dstream, int64_t n,
                         float* __restrict dx, X* __restrict to) {
  for (int64_t i = 0; i < n; ++i) {
    float d = (dx[i] - middle - unit[i] * along) * rate;
    if constexpr (kStream) d += widened(dstream[i]);
    if constexpr (kKept) dx[i] = d;
    to[i] = narrowed<X>(d);
  }
}

// The same without a norm, and, if not `kOut`, without a gradient of the result.
template <bool kOut, typename X>
ALWAYS void through_stream(const X* dstream, int64_t n, float* __restrict dx, X* __restrict to) {
  for (int64_t i = 0; i < n; ++i) {
    float d = kOut ? dx[i] : 0.0f;
    if (dstream != nullptr) d = kOut ? d + widened(dstream[i]) : widened(dstream[i]);
    dx[i] = d;
    to[i] = narrowed<X>(d);
  }
}

template <typename Y>
ALWAYS void through_gate(const float* dx, const float* gate, int64_t n, Y* __restrict dy) {
  for (int64_t i = 0; i < n; ++i) dy[i] = narrowed<Y>(dx[i] * gate[i]);
}

template <bool kFirst, typename Y>
ALWAYS void through_gate(const float* dx, const float* gate, const Y* y, int64_t n, Y* __restrict dy,
                         float* __restrict dgate) {
  for (int64_t i = 0; i < n; ++i) {
    const float d = dx[i];
    dy[i] = narrowed<Y>(d * gate[i]);
    add_number<kFirst>(d * widened(y[i]), dgate[i]);
  }
}

// Where a token lies.
struct At {
  int64_t token, clip, place;
};

ALWAYS At at_position(const NormBackward& in, int64_t position) {
  const int64_t token = in.of.order == nullptr ? position : in.of.order[position];
  return {token, token / in.sizes.count, token % in.sizes.count};
}

struct Token {
  alignas(64) float unit[kRoom], dx[kRoom];
  float along, middle, rate;  // means of dx * unit and of dx; 1 / deviation
};

// Back to what was normed, with the sums of factor and offset.
template <bool kFirst, bool kTables, typename X>
ALWAYS void through_result(const NormBackward& in, const At& of, const Modulation& by, float* sums, Token& to) {
  const int64_t n = in.sizes.width;
  const bool normed = in.norm != TokenNorm::kNone;
  const float mean = normed ? in.stats[2 * of.token] : 0.0f;
  to.rate = normed ? in.stats[2 * of.token + 1] : 1.0f;
  Sum along, middle;
  for (int64_t at = 0; at < n; at += kChunk) {
    const int64_t some = std::min(kChunk, n - at);
    const X *stream = in.stream.at<X>(of.clip, of.place) + at, *dout = in.dout.at<X>(of.clip, of.place) + at;
    float *unit = to.unit + at, *dx = to.dx + at;
    through_modulation<kFirst, kTables>(stream, dout, by.factor + at, mean, to.rate, some, unit, dx, sums + at,
                                        sums + n + at);
    if (normed) add_products_to(along, dx, unit, some);
    if (in.norm == TokenNorm::kLayer) add_to(middle, dx, some);
  }
  to.along = along.total() / float(n);
  to.middle = middle.total() / float(n);
}

// Back to the stream: numbers at.. of a token.
template <typename X>
ALWAYS void to_stream(const NormBackward& in, const At& of, int64_t at, int64_t some, bool kept, Token& token, X* to) {
  const X* dstream = in.dstream.data == nullptr ? nullptr : in.dstream.at<X>(of.clip, of.place) + at;
  float* dx = token.dx + at;
  if (in.dout.data == nullptr) return through_stream<false>(dstream, some, dx, to);
  if (in.norm == TokenNorm::kNone) return through_stream<true>(dstream, some, dx, to);
  const auto through = [&](auto by_stream, auto dx_kept) ALWAYS_INLINE {
    through_norm<by_stream.value, dx_kept.value>(token.unit + at, token.along, token.middle, token.rate, dstream, some,
                                                 dx, to);
  };
  if (dstream != nullptr && kept) through(std::true_type(), std::true_type());
  if (dstream != nullptr && !kept) through(std::true_type(), std::false_type());
  if (dstream == nullptr && kept) through(std::false_type(), std::true_type());
  if (dstream == nullptr && !kept) through(std::false_type(), std::false_type());
}

// Back to what went through the gate, with the gate's sums.
template <bool kFirst, typename Y>
ALWAYS void to_gated(const Rows& y, const At& of, int64_t at, int64_t some, const float* dx, const float* gate, Y* dy,
                     float* dgate) {
  if (y.data == nullptr) {
    through_gate(dx, gate, some, dy);
  } else {
    through_gate<kFirst>(dx, gate, y.at<Y>(of.clip, of.place) + at, some, dy, dgate);
  }
}

template <bool kFirst, bool kTables, typename X>
ALWAYS void backward_token(const NormBackward& in, const NormGradients& to, const At& of, const Modulation& by,
                           float* sums, Token& token) {
  const int64_t n = in.sizes.width;
  if (in.dout.data != nullptr) through_result<kFirst, kTables, X>(in, of, by, sums, token);
  for (int64_t at = 0; at < n; at += kChunk) {
    const int64_t some = std::min(kChunk, n - at), place = of.token * n + at;
    to_stream(in, of, at, some, to.dy != nullptr, token, static_cast<X*>(to.dx) + place);
    if (to.dy == nullptr) continue;
    const float *dx = token.dx + at, *gate = by.gate + at;
    float* dgate = sums + 2 * kTables * n + at;
    if (to.half_dy) {
      to_gated<kFirst>(in.y, of, at, some, dx, gate, static_cast<BFloat16*>(to.dy) + place, dgate);
    } else {
      to_gated<kFirst>(in.y, of, at, some, dx, gate, static_cast<float*>(to.dy) + place, dgate);
    }
  }
}

template <bool kTables, typename X>
ALWAYS void backward_segments(const NormBackward& in, const NormGradients& to, const Segment* begin,
                              const Segment* end) {
  Modulation by;
  Token token;
  for (const Segment* segment = begin; segment < end; ++segment) {
    if (segment->row != by.row) {
      if (in.gate.data != nullptr) take_gate(in.gate, segment->row, in.sizes.width, by);
      if (in.dout.data != nullptr) take_factor(in.scale, in.weight, segment->row, in.sizes.width, by);
      by.row = segment->row;
    }
    for (int64_t position = segment->begin; position < segment->end; ++position) {
      const At of = at_position(in, position);
      if (position == segment->begin) {
        backward_token<true, kTables, X>(in, to, of, by, segment->sums, token);
      } else {
        backward_token<false, kTables, X>(in, to, of, by, segment->sums, token);
      }
    }
  }
}

template <typename X>
ALWAYS void backward_of(const NormBackward& in, const NormGradients& to, const Segment* begin, const Segment* end) {
  if (in.tables) {
    backward_segments<true, X>(in, to, begin, end);
  } else {
    backward_segments<false, X>(in, to, begin, end);
  }
}

INSTRUCTION_SETS void floats(const NormBackward& in, const NormGradients& to, const Segment* begin, const Segment* end) {
  backward_of<float>(in, to, begin, end);
}
INSTRUCTION_SETS void halves(const NormBackward& in, const NormGradients& to, const Segment* begin, const Segment* end) {
  backward_of<BFloat16>(in, to, begin, end);
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
