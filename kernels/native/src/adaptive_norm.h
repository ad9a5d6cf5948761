#pragma once
#include <cstdint>

#include "token_numbers.h"

// Gate, residual, norm and modulation of tokens. The definition is ../../elementwise/adaptive_norm_reference.py.
namespace phys4d {

enum class TokenNorm { kNone, kLayer, kRms };

constexpr int64_t kWidest = 8192;  // channels

// Which row of the tables each token takes: token i row i / run, or, with an index, that of the index. Then order holds
// the tokens sorted by row, and segments [n, 3], those of each row from begins[row] on, tell where a row's tokens begin
// and end in it.
struct RowsOfTokens {
  int64_t rows, run;
  const int32_t *index, *order, *segments, *begins;
};

struct Sizes {
  int64_t total, count, width;  // tokens, tokens of a clip, channels
};

// x and y: rows by clip and token; tables and what is of the norm, [C]: by row.
struct NormForward {
  Rows x, y, gate, weight, bias, scale, shift;
  RowsOfTokens of;
  Sizes sizes;
  TokenNorm norm;
  float epsilon;
};

// stream and out [tokens, C], of the dtype of x, stats [tokens, 2]: mean and 1 / deviation; null: not wanted.
void adaptive_norm_cpu(const NormForward& in, void* stream, void* out, float* stats);

// y is there for the gradient of the gate alone; tables: whether those of factor and offset are wanted.
struct NormBackward {
  Rows stream, y, dstream, dout, gate, weight, scale;
  const float* stats;
  RowsOfTokens of;
  Sizes sizes;
  TokenNorm norm;
  bool tables;
};

struct NormGradients {
  void *dx, *dy;  // [tokens, C]; dy null without a gate
  bool half_dx, half_dy;
  float* sums;  // [rows, parts, C]
};

// How many sums a segment of tokens has that is not all of its row: room for them is the caller's.
int64_t adaptive_norm_partial(const NormBackward& in);

// partial [adaptive_norm_partial, parts, C]. The same bits for any number of threads.
void adaptive_norm_backward_cpu(const NormBackward& in, const NormGradients& out, float* partial);

}  // namespace phys4d
