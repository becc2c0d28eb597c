// Arguments of the CPU kernels, and the table of functions that each instruction-set translation unit fills.
#pragma once
#include "dpg/types.h"

namespace dpg {
namespace cpu {

// u[g, t, j] = sum_k codes[slots[t], k] * (A[g, k, j] . x[t]) for the tokens t listed in rows.
// With `spread` the result goes to coef instead, already spread over the bank: coef[i, k*r + j] = scale * codes_b[slots[t], k] * u.
struct Shrink {
  const void* x;
  int64_t ldx;
  const void* A;
  const float* codes;
  const int32_t* slots;
  const int32_t* rows;
  int64_t n, groups, K, r, d;
  float* u;
  int64_t u_group;  // elements between groups of u
  bool spread;
  float* coef;
  const float* codes_b;
  float scale;
};

// The same from S[t] = A x[t], computed elsewhere: S is [tokens, groups * K * r].
struct Combine {
  const void* S;
  int64_t lds;
  const float* codes;
  const int32_t* slots;
  const int32_t* rows;
  int64_t groups, K, r;
  float* u;         // [groups, tokens, r]
  int64_t u_group;
  bool spread;
  float* coef;      // [groups, entries of rows, K * r], spread as in Shrink
  int64_t coef_group;
  const float* codes_b;
  float scale;
};

// y[rows[i]] = in[rows[i]] + sum_kj coef[i, kj] * B[kj]; in may be y
struct Expand {
  void* y;
  int64_t ldy;
  const void* in;
  int64_t ld_in;
  const int32_t* rows;
  const void* B;
  int64_t ldb, kr;
  const float* coef;
};

// h[rows[i]] = gated activation; with `expands` the two expands ride along. With `gradient`, gh is that of h, h is that of
// the (expanded) gate, g_up that of up and, unless null, g_v that of the steered activation.
struct Gated {
  const void *gate, *up;
  void* h;
  int64_t ldg, ldu, ldh;
  const int32_t* rows;
  const void *B_gate, *B_up;
  int64_t ldb_gate, ldb_up, kr;
  bool expands;
  const float *coef_gate, *coef_up;
  const int16_t* clamp_mask;
  const float* add;
  int64_t ld_add;
  const SteerRow* steer;  // indexed by token; null without steering
  bool gradient;
  const void* gh;
  void *g_up, *g_v;
  int64_t ldgh, ld_up, ld_v;
};

// Tokens rows[begin, end) add to one row of the tables.
struct StatsRun {
  int64_t slot, begin, end;
};

constexpr uint16_t kStatsPositive = 0x8000, kStatsNowhere = 0x7fff;  // in a code: v > 0; NaN, else the bin
constexpr int64_t kStatsCodesPay = 1 << 19;  // values to count, from which codes are made first

// Counts of v > 0 and histograms of v = act(gate); bin b holds edges[b - 1] < v <= edges[b].
struct Stats {
  const void* gate;
  int64_t ldg, width;
  const int32_t* rows;  // tokens, those of one slot together
  const StatsRun* runs;
  int64_t n_runs;
  const float* edges;
  int64_t bins;
  float per_edge;      // bins per unit of v
  int64_t* positive;   // [S, width]
  void* histogram;     // [S, width, bins], int32 or int64
  bool wide;           // int64
  uint16_t* codes;     // [65536], where every value of a 16-bit gate falls; null: each value is computed
};

// h = residual + y, or residual + h for a token with a slot, whose h holds y with its expand; out = the norm of h.
struct Norm {
  const void *y, *residual, *weight;
  int64_t ldy, ld_residual, width;
  const int32_t* slots;  // null: no token has one
  void *h, *out;
  int64_t ldh, ld_out;
  float eps;
  bool unit_offset;
};

struct Kernels {
  const char* isa;
  int64_t col_unit;    // columns are split over threads in multiples of this
  int64_t shrink_tile;  // tokens per unit of shrink work
  // units are (group, j, token tile), token tile fastest
  void (*shrink[kDTypes])(const Shrink&, int64_t unit0, int64_t unit1);
  // entries [i0, i1) of rows
  void (*combine[kDTypes])(const Combine&, int64_t i0, int64_t i1);
  // columns [c0, c1), entries [i0, i1) of rows
  void (*expand[kDTypes])(const Expand&, int64_t c0, int64_t c1, int64_t i0, int64_t i1);
  void (*gated[kDTypes])(const Gated&, Act act, int64_t c0, int64_t c1, int64_t i0, int64_t i1);
  // tokens rows[i0, i1)
  void (*norm[kDTypes])(const Norm&, const int32_t* rows, int64_t i0, int64_t i1);
  void (*stats[kDTypes])(const Stats&, Act act, int64_t c0, int64_t c1);
  void (*stats_codes[kDTypes])(const Stats&, Act act);  // fills codes; null for float32
};

const Kernels& kernels_generic();
#if defined(DPG_X86)
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
const Kernels& kernels_avx512bf16();
#endif

}  // namespace cpu
}  // namespace dpg
