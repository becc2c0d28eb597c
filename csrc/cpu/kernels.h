// The CPU kernels, written once over VF (the SIMD type of the including translation unit).
//
// Every sum runs in one fixed order per token, whatever tile the token falls into: along d in the lanes of one
// accumulator, then over k, then across lanes (shrink); over the bank rows in order, kSumRows at a time (expand). So a
// token's result depends neither on its neighbours nor on the number of threads.
#pragma once
#include "cpu/args.h"

namespace dpg {
namespace DPG_NS {
namespace {

using cpu::Combine;
using cpu::Expand;
using cpu::Gated;
using cpu::Norm;
using cpu::Shrink;
using cpu::Stats;
using cpu::StatsRun;
using cpu::kStatsNowhere;
using cpu::kStatsPositive;

DPG_FN int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// ---- shrink ----------------------------------------------------------------------------------------------------------

// sum[t] += code[t][k] * (a_k . x_t), lanes kept apart, for TT tokens and KB consecutive bank entries
template <class T, int TT, int KB>
__attribute__((noinline)) void dot_block(const T* const* x, const T* a, int64_t stride, int64_t d, const float* const* code, VF* sum) {
  VF acc[TT][KB];
#pragma GCC unroll 8
  for (int t = 0; t < TT; ++t)
#pragma GCC unroll 8
    for (int k = 0; k < KB; ++k) acc[t][k] = VF(0.0f);
  int64_t i = 0;
  for (; i + Dot<T>::step <= d; i += Dot<T>::step) {
    typename Dot<T>::R xv[TT];
#pragma GCC unroll 8
    for (int t = 0; t < TT; ++t) xv[t] = Dot<T>::load(x[t] + i);
#pragma GCC unroll 8
    for (int k = 0; k < KB; ++k) {
      const typename Dot<T>::R av = Dot<T>::load(a + k * stride + i);
#pragma GCC unroll 8
      for (int t = 0; t < TT; ++t) acc[t][k] = Dot<T>::mac(acc[t][k], xv[t], av);
    }
  }
  if (i < d) {
    const int rest = static_cast<int>(d - i);
    typename Dot<T>::R xv[TT];
#pragma GCC unroll 8
    for (int t = 0; t < TT; ++t) xv[t] = Dot<T>::load_n(x[t] + i, rest);
#pragma GCC unroll 8
    for (int k = 0; k < KB; ++k) {
      const typename Dot<T>::R av = Dot<T>::load_n(a + k * stride + i, rest);
#pragma GCC unroll 8
      for (int t = 0; t < TT; ++t) acc[t][k] = Dot<T>::mac(acc[t][k], xv[t], av);
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < KB; ++k)
#pragma GCC unroll 8
    for (int t = 0; t < TT; ++t) sum[t] = vfma(VF(code[t][k]), acc[t][k], sum[t]);
}

template <class T, int TT>
void shrink_tile(const Shrink& p, int64_t g, int64_t j, int64_t i) {
  const T* x[TT];
  const float* code[TT];
  VF sum[TT];
  for (int t = 0; t < TT; ++t) {
    const int64_t row = p.rows[i + t];
    x[t] = static_cast<const T*>(p.x) + row * p.ldx;
    code[t] = p.codes + p.slots[row] * p.K;
    sum[t] = VF(0.0f);
  }
  const int64_t stride = p.r * p.d;
  const T* a = static_cast<const T*>(p.A) + (g * p.K * p.r + j) * p.d;
  int64_t k = 0;
  while (k < p.K) {
    const int64_t left = p.K - k;
    const int64_t block = left >= kDotK ? kDotK : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    if (block == kDotK)
      dot_block<T, TT, kDotK>(x, a, stride, p.d, code, sum);
    else if (block == 4)
      dot_block<T, TT, 4>(x, a, stride, p.d, code, sum);
    else if (block == 2)
      dot_block<T, TT, 2>(x, a, stride, p.d, code, sum);
    else
      dot_block<T, TT, 1>(x, a, stride, p.d, code, sum);
    k += block;
    a += block * stride;
    for (int t = 0; t < TT; ++t) code[t] += block;
  }
  for (int t = 0; t < TT; ++t) {
    const int64_t row = p.rows[i + t];
    const float value = vsum(sum[t]);
    if (p.spread) {
      const float* b = p.codes_b + p.slots[row] * p.K;
      float* c = p.coef + (i + t) * p.K * p.r + j;
      for (int64_t e = 0; e < p.K; ++e) c[e * p.r] = (p.scale * b[e]) * value;
    } else {
      p.u[g * p.u_group + row * p.r + j] = value;
    }
  }
}

template <class T>
void shrink(const Shrink& p, int64_t unit0, int64_t unit1) {
  const int64_t tiles = (p.n + kDotT - 1) / kDotT;
  for (int64_t unit = unit0; unit < unit1; ++unit) {
    const int64_t row = unit / tiles;
    const int64_t g = row / p.r, j = row % p.r;
    int64_t i = (unit % tiles) * kDotT;
    const int64_t end = least(i + kDotT, p.n);
    if (kDotT == 4 && end - i == 4) {
      shrink_tile<T, 4>(p, g, j, i);
      continue;
    }
    if (end - i >= 2) {
      shrink_tile<T, 2>(p, g, j, i);
      i += 2;
    }
    if (i < end) shrink_tile<T, 1>(p, g, j, i);
  }
}

// One vector of the rank at a time; four partial sums over k, so that a bank of many entries loses few digits.
template <class T>
void combine(const Combine& p, int64_t i0, int64_t i1) {
  for (int64_t i = i0; i < i1; ++i) {
    const int64_t row = p.rows[i];
    const float* code = p.codes + p.slots[row] * p.K;
    for (int64_t g = 0; g < p.groups; ++g) {
      const T* s = static_cast<const T*>(p.S) + row * p.lds + g * p.K * p.r;
      for (int64_t j = 0; j < p.r; j += VF::N) {
        const int n = static_cast<int>(least(VF::N, p.r - j));
        VF part[4] = {VF(0.0f), VF(0.0f), VF(0.0f), VF(0.0f)};
        for (int64_t k = 0; k < p.K; ++k)
          part[k % 4] = vfma(VF(code[k]), n == VF::N ? vload(s + k * p.r + j) : vload_n(s + k * p.r + j, n), part[k % 4]);
        const VF sum = (part[0] + part[1]) + (part[2] + part[3]);
        if (!p.spread) {
          vstore_n(p.u + g * p.u_group + row * p.r + j, sum, n);
          continue;
        }
        const float* b = p.codes_b + p.slots[row] * p.K;
        float* c = p.coef + g * p.coef_group + i * p.K * p.r + j;
        for (int64_t e = 0; e < p.K; ++e) vstore_n(c + e * p.r, VF(p.scale * b[e]) * sum, n);
      }
    }
  }
}

// ---- expand ----------------------------------------------------------------------------------------------------------

// Where a block reads and writes: row t of the block is base + row(i + t) * ld, all at column 0.
template <class T>
struct Rows {
  T* base;
  int64_t ld;
  const int32_t* index;  // null: rows lie one after another
  DPG_FN T* at(int64_t i) const { return base + (index ? static_cast<int64_t>(index[i]) : i) * ld; }
};

// Fetches bank columns early, in bursts of 256 bytes per row: single lines a whole row apart come slowly from memory.
// The blocks of one burst share the work; `from` is this block's first row and column in the burst that comes next.
template <class TB, int WIDTH>
struct Ahead {
  static constexpr int kLine = 64 / sizeof(TB);
  static constexpr int kPerStep = WIDTH > kLine ? WIDTH / kLine : 1;  // lines fetched per bank row of the block at hand
  static constexpr int kBurst = kPerStep > 4 ? kPerStep : 4;
  static constexpr int kBlocks = kBurst / kPerStep;
  const TB* bank;  // the first row at the next burst's first column; null: nothing comes next
  int64_t ldb, done;

  Ahead(const TB* bank_row, int64_t ldb_, int64_t kr, int64_t c0, int64_t c1, int64_t c) : ldb(ldb_) {
    const int64_t block = (c - c0) / WIDTH % kBlocks;
    const int64_t next = c + (kBlocks - block) * WIDTH;
    bank = next < c1 ? bank_row + next : nullptr;
    done = block * kr * kPerStep;
  }
  DPG_FN void step(int64_t e) const {
#pragma GCC unroll 8
    for (int l = 0; l < kPerStep; ++l) {
      const int64_t line = done + e * kPerStep + l;
      prefetch(bank + line / kBurst * ldb + line % kBurst * kLine);
    }
  }
};

// out[i + t] = round(in[i + t] + sum_kj coef[i + t, kj] * B[kj]) over the NV vectors (or the first `rest` lanes) at
// column c.
template <int TT, int NV, bool TAIL, class T, class TB>
__attribute__((noinline)) void expand_block(Rows<const T> in, Rows<T> out, const TB* b, int64_t ldb, const float* coef,
                                            int64_t kr, Ahead<TB, NV * VF::N> ahead, int rest) {
  VF acc[TT][NV];
#pragma GCC unroll 8
  for (int t = 0; t < TT; ++t)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) acc[t][v] = VF(0.0f);
  alignas(64) float sums[TT * NV * VF::N];
  for (int64_t e = 0; e < kr;) {
    for (const int64_t stop = kr - e > kSumRows ? e + kSumRows : kr; e < stop; ++e, b += ldb) {
      VF bv[NV];
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) bv[v] = TAIL ? vload_n(b + v * VF::N, rest) : vload(b + v * VF::N);
      if (ahead.bank) ahead.step(e);
#pragma GCC unroll 8
      for (int t = 0; t < TT; ++t) {
        const VF c(coef[t * kr + e]);
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) acc[t][v] = vfma(c, bv[v], acc[t][v]);
      }
    }
    if (kr <= kSumRows) break;
#pragma GCC unroll 8
    for (int t = 0; t < TT; ++t)
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) {
        float* sum = sums + (t * NV + v) * VF::N;
        if (e > kSumRows) acc[t][v] = vload(sum) + acc[t][v];
        if (e < kr) vstore(sum, acc[t][v]), acc[t][v] = VF(0.0f);
      }
  }
#pragma GCC unroll 8
  for (int t = 0; t < TT; ++t) {
    const T* from = in.at(t);
    T* to = out.at(t);
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      if (TAIL)
        vstore_n(to, vload_n(from, rest) + acc[t][v], rest);
      else
        vstore(to + v * VF::N, vload(from + v * VF::N) + acc[t][v]);
    }
  }
}

// With several token tiles, the bank's columns are first gathered in one place as float: rows a power of two apart would
// fight for the same cache sets, and each tile would convert them again. Banks of more rows are read where they are.
constexpr int64_t kPackRows = 256;

template <int NV, class T>
__attribute__((noinline)) void pack_block(const T* b, int64_t ldb, int64_t kr, Ahead<T, NV * VF::N> ahead, float* packed) {
  for (int64_t e = 0; e < kr; ++e, b += ldb, packed += NV * VF::N) {
    if (ahead.bank) ahead.step(e);
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) vstore(packed + v * VF::N, vload(b + v * VF::N));
  }
}

constexpr int kMaxVectors = 8;

// Walks columns [c0, c1) in blocks of NV vectors, then narrower ones, then a partial vector.
template <int NV, class Body>
void over_columns(int64_t c0, int64_t c1, const Body& body) {
  int64_t c = c0;
  for (; c + NV * VF::N <= c1; c += NV * VF::N) body.template block<NV, false>(c, 0);
  if constexpr (NV > 1) {
    if (c < c1) over_columns<NV / 2>(c, c1, body);
  } else {
    if (c < c1) body.template block<1, true>(c, static_cast<int>(c1 - c));
  }
}

// Splits tokens [i0, i1) into tiles of TT and then of TT/2, ..., 1.
template <template <int> class Tiles, class Args, int TT>
void over_tokens(const Args& p, int64_t c0, int64_t c1, int64_t i0, int64_t i1) {
  constexpr int NV = kTileRegs / TT < kMaxVectors ? kTileRegs / TT : kMaxVectors;
  const int64_t whole = (i1 - i0) / TT * TT;
  if (whole) over_columns<NV>(c0, c1, Tiles<TT>{p, i0, i0 + whole, c0, c1});
  if constexpr (TT > 1) {
    if (i0 + whole < i1) over_tokens<Tiles, Args, TT / 2>(p, c0, c1, i0 + whole, i1);
  }
}

template <class T>
struct ExpandOf {
  template <int TT>
  struct Tiles {
    const Expand& p;
    int64_t i0, i1, c0, c1;
    template <int NV, bool TAIL>
    void block(int64_t c, int rest) const {
      constexpr int64_t width = NV * VF::N;
      T* y = static_cast<T*>(p.y) + c;
      const T* in = static_cast<const T*>(p.in) + c;
      const T* b = static_cast<const T*>(p.B) + c;
      const Ahead<T, width> ahead(static_cast<const T*>(p.B), p.ldb, p.kr, c0, c1, c);
      const Ahead<float, width> none(nullptr, 0, 0, 0, 0, 0);
      if (!TAIL && TT == kTileT && i1 - i0 > TT && p.kr <= kPackRows) {
        alignas(64) float packed[kPackRows * width];
        pack_block<NV>(b, p.ldb, p.kr, ahead, packed);
        for (int64_t i = i0; i < i1; i += TT)
          expand_block<TT, NV, TAIL, T, float>({in, p.ld_in, p.rows + i}, {y, p.ldy, p.rows + i}, packed, width,
                                               p.coef + i * p.kr, p.kr, none, rest);
        return;
      }
      for (int64_t i = i0; i < i1; i += TT)
        expand_block<TT, NV, TAIL, T, T>({in, p.ld_in, p.rows + i}, {y, p.ldy, p.rows + i}, b, p.ldb, p.coef + i * p.kr,
                                         p.kr, ahead, rest);
    }
  };
};

template <class T>
void expand(const Expand& p, int64_t c0, int64_t c1, int64_t i0, int64_t i1) {
  over_tokens<ExpandOf<T>::template Tiles, Expand, kTileT>(p, c0, c1, i0, i1);
}

// ---- gated activation ------------------------------------------------------------------------------------------------

template <class T>
DPG_FN T* part_of(void* base, int64_t ld, int64_t row, int64_t c) {
  return static_cast<T*>(base) + row * ld + c;
}

// n columns of one token (row), the first of them column c of the layer
template <class T, int ACT>
__attribute__((noinline)) void act_row(const Gated& p, const T* gate, const T* up, int64_t row, int64_t c, int64_t n) {
  T* h = part_of<T>(p.h, p.ldh, row, c);
  const SteerRow* steer = p.steer ? p.steer + row : nullptr;
  if (!steer || !steer->count) {
    int64_t i = 0;
    for (; i + VF::N <= n; i += VF::N) vstore(h + i, gated<T, ACT>(vload(gate + i), vload(up + i)));
    if (i < n) {
      const int rest = static_cast<int>(n - i);
      vstore_n(h + i, gated<T, ACT>(vload_n(gate + i, rest), vload_n(up + i, rest)), rest);
    }
    return;
  }
  const int16_t* mask = p.clamp_mask + c;
  const float* table = p.add + c;
  constexpr int kUnroll = 4;  // vectors that share the broadcast strengths
  int64_t i = 0;
  for (; i + kUnroll * VF::N <= n; i += kUnroll * VF::N) {
    VF add[kUnroll];
#pragma GCC unroll 4
    for (int v = 0; v < kUnroll; ++v) add[v] = VF(0.0f);
    for (int e = 0; e < steer->count; ++e) {
      const VF strength(steer->strength[e]);
      const float* line = table + steer->pole[e] * p.ld_add + i;
#pragma GCC unroll 4
      for (int v = 0; v < kUnroll; ++v) add[v] = vfma(strength, vload(line + v * VF::N), add[v]);
    }
#pragma GCC unroll 4
    for (int v = 0; v < kUnroll; ++v) {
      const int64_t at = i + v * VF::N;
      vstore(h + at, gated_steered<T, ACT>(vload(gate + at), vload(up + at), vbound(mask + at, steer->bits, VF::N), add[v]));
    }
  }
  for (; i < n; i += VF::N) {
    const int rest = static_cast<int>(least(VF::N, n - i));
    VF add(0.0f);
    for (int e = 0; e < steer->count; ++e)
      add = vfma(VF(steer->strength[e]), vload_n(table + steer->pole[e] * p.ld_add + i, rest), add);
    vstore_n(h + i,
             gated_steered<T, ACT>(vload_n(gate + i, rest), vload_n(up + i, rest), vbound(mask + i, steer->bits, rest), add),
             rest);
  }
}

// The same for the gradients.
template <class T, int ACT>
__attribute__((noinline)) void grad_row(const Gated& p, const T* gate, const T* up, int64_t row, int64_t c, int64_t n) {
  const T* gh = static_cast<const T*>(p.gh) + row * p.ldgh + c;
  T *g_gate = part_of<T>(p.h, p.ldh, row, c), *g_up = part_of<T>(p.g_up, p.ld_up, row, c);
  T* g_v = p.g_v ? part_of<T>(p.g_v, p.ld_v, row, c) : nullptr;
  const SteerRow* steer = p.steer && p.steer[row].count ? p.steer + row : nullptr;
  const auto read = [](const auto* from, int count) { return count == VF::N ? vload(from) : vload_n(from, count); };
  for (int64_t i = 0; i < n; i += VF::N) {
    const int count = static_cast<int>(least(VF::N, n - i));
    const VF gradient = read(gh + i, count);
    VF slope, v = vround<T>(activation_and_slope<ACT>(read(gate + i, count), &slope)), of_v = gradient * read(up + i, count);
    if (g_v) vstore_n(g_v + i, of_v, count);
    if (steer) {
      VF add(0.0f);
      for (int e = 0; e < steer->count; ++e)
        add = vfma(VF(steer->strength[e]), read(p.add + steer->pole[e] * p.ld_add + c + i, count), add);
      const VF bound = vbound(p.clamp_mask + c + i, steer->bits, count);
      of_v = vzero_above(v, bound, of_v);
      v = vround<T>(vmin(v, bound) + add);
    }
    vstore_n(g_gate + i, of_v * slope, count);
    vstore_n(g_up + i, gradient * v, count);
  }
}

template <class T>
using ActRow = void (*)(const Gated&, const T*, const T*, int64_t, int64_t, int64_t);

template <class T>
struct GatedJob {
  const Gated& p;
  ActRow<T> act;
};

template <class T>
struct GatedOf {
  template <int TT>
  struct Tiles {
    const GatedJob<T>& job;
    int64_t i0, i1, c0, c1;
    template <int NV, bool TAIL>
    void block(int64_t c, int rest) const {
      const Gated& p = job.p;
      constexpr int64_t width = NV * VF::N;
      alignas(64) T gate[TT * width], up[TT * width];
      const int64_t n = TAIL ? rest : width;
      const T* b_gate = static_cast<const T*>(p.B_gate) + c;
      const T* b_up = static_cast<const T*>(p.B_up) + c;
      const Ahead<T, width> ahead_gate(static_cast<const T*>(p.B_gate), p.ldb_gate, p.kr, c0, c1, c);
      const Ahead<T, width> ahead_up(static_cast<const T*>(p.B_up), p.ldb_up, p.kr, c0, c1, c);
      const Ahead<float, width> none(nullptr, 0, 0, 0, 0, 0);
      const bool pack = !TAIL && TT == kTileT && i1 - i0 > TT && p.kr <= kPackRows;
      alignas(64) float packed[2][TT == kTileT && !TAIL ? kPackRows * width : 1];
      if (pack) {
        pack_block<NV>(b_gate, p.ldb_gate, p.kr, ahead_gate, packed[0]);
        pack_block<NV>(b_up, p.ldb_up, p.kr, ahead_up, packed[1]);
      }
      for (int64_t i = i0; i < i1; i += TT) {
        const Rows<const T> gate_in{static_cast<const T*>(p.gate) + c, p.ldg, p.rows + i};
        const Rows<const T> up_in{static_cast<const T*>(p.up) + c, p.ldu, p.rows + i};
        const Rows<T> gate_out{gate, width, nullptr}, up_out{up, width, nullptr};
        const float *coef_gate = p.coef_gate + i * p.kr, *coef_up = p.coef_up + i * p.kr;
        if (pack) {
          expand_block<TT, NV, TAIL, T, float>(gate_in, gate_out, packed[0], width, coef_gate, p.kr, none, rest);
          expand_block<TT, NV, TAIL, T, float>(up_in, up_out, packed[1], width, coef_up, p.kr, none, rest);
        } else {
          expand_block<TT, NV, TAIL, T, T>(gate_in, gate_out, b_gate, p.ldb_gate, coef_gate, p.kr, ahead_gate, rest);
          expand_block<TT, NV, TAIL, T, T>(up_in, up_out, b_up, p.ldb_up, coef_up, p.kr, ahead_up, rest);
        }
        for (int t = 0; t < TT; ++t) {
          job.act(p, gate + t * width, up + t * width, p.rows[i + t], c, n);
        }
      }
    }
  };
};

template <class T>
DPG_FN void gated_part(const GatedJob<T>& job, int64_t i, int64_t c, int64_t n) {
  const Gated& p = job.p;
  const int64_t row = p.rows[i];
  job.act(p, static_cast<const T*>(p.gate) + row * p.ldg + c, static_cast<const T*>(p.up) + row * p.ldu + c, row, c, n);
}

template <class T>
void gated_act(const Gated& p, Act act, int64_t c0, int64_t c1, int64_t i0, int64_t i1) {
  const ActRow<T> forward[kActs] = {act_row<T, kSilu>, act_row<T, kGeluTanh>, act_row<T, kGelu>};
  const ActRow<T> backward[kActs] = {grad_row<T, kSilu>, grad_row<T, kGeluTanh>, grad_row<T, kGelu>};
  const GatedJob<T> job{p, p.gradient ? backward[act] : forward[act]};
  if (p.expands) {
    over_tokens<GatedOf<T>::template Tiles, GatedJob<T>, kTileT>(job, c0, c1, i0, i1);
    return;
  }
  // The poles' additions for some columns stay in cache while a few tokens pass; few, so that their
  // memory pages stay known.
  constexpr int64_t kColumns = 2048, kTokens = 16;
  if (!p.steer) {
    for (int64_t i = i0; i < i1; ++i) gated_part(job, i, c0, c1 - c0);
    return;
  }
  for (int64_t first = i0; first < i1; first += kTokens) {
    const int64_t last = least(first + kTokens, i1);
    for (int64_t c = c0; c < c1; c += kColumns)
      for (int64_t i = first; i < last; ++i) gated_part(job, i, c, least(kColumns, c1 - c));
  }
}

// ---- residual and norm -----------------------------------------------------------------------------------------------

template <class T, bool OFFSET>
void norm_row(const Norm& p, int64_t row) {
  T* h = static_cast<T*>(p.h) + row * p.ldh;
  const T* y = p.slots && p.slots[row] >= 0 ? h : static_cast<const T*>(p.y) + row * p.ldy;
  const T* residual = static_cast<const T*>(p.residual) + row * p.ld_residual;
  const auto read = [](const T* from, int count) { return count == VF::N ? vload(from) : vload_n(from, count); };
  constexpr int kChains = 4;
  VF squares[kChains] = {VF(0.0f), VF(0.0f), VF(0.0f), VF(0.0f)};
  int chain = 0;
  for (int64_t c = 0; c < p.width; c += VF::N, chain = (chain + 1) % kChains) {
    const int count = static_cast<int>(least(VF::N, p.width - c));
    const VF v = vround<T>(read(residual + c, count) + read(y + c, count));
    vstore_n(h + c, v, count);
    squares[chain] = vfma(v, v, squares[chain]);
  }
  const float mean = vsum((squares[0] + squares[1]) + (squares[2] + squares[3])) / static_cast<float>(p.width);
  const VF scale(1.0f / __builtin_sqrtf(mean + p.eps)), one(1.0f);
  T* out = static_cast<T*>(p.out) + row * p.ld_out;
  const T* weight = static_cast<const T*>(p.weight);
  for (int64_t c = 0; c < p.width; c += VF::N) {
    const int count = static_cast<int>(least(VF::N, p.width - c));
    const VF normed = read(h + c, count) * scale, w = read(weight + c, count);
    vstore_n(out + c, OFFSET ? normed * (one + w) : vround<T>(normed) * w, count);
  }
}

template <class T>
void norm(const Norm& p, const int32_t* rows, int64_t i0, int64_t i1) {
  for (int64_t i = i0; i < i1; ++i) p.unit_offset ? norm_row<T, true>(p, rows[i]) : norm_row<T, false>(p, rows[i]);
}

// ---- activation statistics -------------------------------------------------------------------------------------------

// The bin of a value above the lowest edge: guessed from the spacing, then found by comparison. It is one of the bins 1 to
// last whatever the edges hold, since another thread may change them meanwhile.
DPG_FN int64_t bin_above(const Stats& p, float v) {
  const int64_t last = p.bins - 1;
  const float guess = (v - p.edges[0]) * p.per_edge;
  int64_t b = guess < static_cast<float>(last) ? guess > 0.0f ? static_cast<int64_t>(guess) + 1 : 1 : last;
  while (b > 1 && v <= p.edges[b - 1]) --b;
  while (b < last && v > p.edges[b]) ++b;
  return b;
}

// One vector of neurons at a time: their histograms stay in cache while all tokens of a run pass, and the lowest bin,
// where most values of a gate fall, is counted in registers.
template <class T, int ACT, class Count>
void stats_columns(const Stats& p, Count* histogram, int64_t c0, int64_t c1) {
  const float lowest = p.edges[0];
  for (int64_t c = c0; c < c1; c += VF::N) {
    const int n = static_cast<int>(least(VF::N, c1 - c));
    for (const StatsRun* run = p.runs; run != p.runs + p.n_runs; ++run) {
      Count* lines = histogram + (run->slot * p.width + c) * p.bins;
      int64_t positive[VF::N] = {}, low[VF::N] = {};
      for (int64_t i = run->begin; i < run->end; ++i) {
        const T* gate = static_cast<const T*>(p.gate) + p.rows[i] * p.ldg + c;
        float values[VF::N];
        vstore(values, vround<T>(activation<ACT>(n == VF::N ? vload(gate) : vload_n(gate, n))));
        for (int l = 0; l < n; ++l) {
          const float v = values[l];
          positive[l] += v > 0.0f;
          low[l] += v <= lowest;
          if (v > lowest) lines[l * p.bins + bin_above(p, v)] += 1;  // NaN goes nowhere
        }
      }
      for (int l = 0; l < n; ++l) {
        p.positive[run->slot * p.width + c + l] += positive[l];
        if (low[l]) lines[l * p.bins] += static_cast<Count>(low[l]);
      }
    }
  }
}

// The same by codes: neither arithmetic nor a branch that depends on a value, NaN apart.
template <class Count>
void stats_coded(const Stats& p, Count* histogram, int64_t c0, int64_t c1) {
  for (int64_t c = c0; c < c1; c += VF::N) {
    const int n = static_cast<int>(least(VF::N, c1 - c));
    for (const StatsRun* run = p.runs; run != p.runs + p.n_runs; ++run) {
      Count* lines = histogram + (run->slot * p.width + c) * p.bins;
      int64_t positive[VF::N] = {};
      for (int64_t i = run->begin; i < run->end; ++i) {
        const uint16_t* gate = static_cast<const uint16_t*>(p.gate) + p.rows[i] * p.ldg + c;
        for (int l = 0; l < n; ++l) {
          const uint16_t code = p.codes[gate[l]], bin = code & kStatsNowhere;
          if (bin == kStatsNowhere) continue;
          positive[l] += code >> 15;
          lines[l * p.bins + bin] += 1;
        }
      }
      for (int l = 0; l < n; ++l) p.positive[run->slot * p.width + c + l] += positive[l];
    }
  }
}

template <class T, int ACT>
void codes_of(const Stats& p) {
  for (int first = 0; first < 65536; first += VF::N) {
    T gate[VF::N];
    float values[VF::N];
    for (int l = 0; l < VF::N; ++l) gate[l].bits = static_cast<uint16_t>(first + l);
    vstore(values, vround<T>(activation<ACT>(vload(gate))));
    for (int l = 0; l < VF::N; ++l) {
      const float v = values[l];
      const uint16_t bin = v > p.edges[0] ? static_cast<uint16_t>(bin_above(p, v)) : v <= p.edges[0] ? 0 : kStatsNowhere;
      p.codes[first + l] = bin | (v > 0.0f ? kStatsPositive : 0);
    }
  }
}

template <class T>
void stats_codes(const Stats& p, Act act) {
  if (act == kSilu) return codes_of<T, kSilu>(p);
  if (act == kGeluTanh) return codes_of<T, kGeluTanh>(p);
  codes_of<T, kGelu>(p);
}

template <class T, int ACT>
void stats_of(const Stats& p, int64_t c0, int64_t c1) {
  if (p.wide)
    stats_columns<T, ACT>(p, static_cast<int64_t*>(p.histogram), c0, c1);
  else
    stats_columns<T, ACT>(p, static_cast<int32_t*>(p.histogram), c0, c1);
}

template <class T>
void stats(const Stats& p, Act act, int64_t c0, int64_t c1) {
  if (p.codes) {
    if (p.wide) return stats_coded(p, static_cast<int64_t*>(p.histogram), c0, c1);
    return stats_coded(p, static_cast<int32_t*>(p.histogram), c0, c1);
  }
  if (act == kSilu) return stats_of<T, kSilu>(p, c0, c1);
  if (act == kGeluTanh) return stats_of<T, kGeluTanh>(p, c0, c1);
  stats_of<T, kGelu>(p, c0, c1);
}

const cpu::Kernels kTable = {
    DPG_ISA_NAME,
    2 * VF::N < 32 ? 32 : 2 * VF::N,
    kDotT,
    {shrink<float>, shrink<bf16>, shrink<f16>},
    {combine<float>, combine<bf16>, combine<f16>},
    {expand<float>, expand<bf16>, expand<f16>},
    {gated_act<float>, gated_act<bf16>, gated_act<f16>},
    {norm<float>, norm<bf16>, norm<f16>},
    {stats<float>, stats<bf16>, stats<f16>},
    {nullptr, stats_codes<bf16>, stats_codes<f16>},
};

}  // namespace
}  // namespace DPG_NS
}  // namespace dpg
