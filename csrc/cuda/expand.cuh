// The expand of lora_expand_add, lora_stacked_add and steered_gated_act: delta[t, c] = sum_e coef[t, e] * B[e, c] over the
// K*r bank rows e, coef[t, k*r + j] = (scale * codes[slots[t], k]) * u[t, j].
//
// Order of the sum, the same everywhere: rows e from the first to the last (float32: in blocks of 64, then the blocks);
// halves take sixteen at a time through the tensor cores, each coefficient as the sum of two halves (the second is what
// rounding left over), so that the delta is as good as with float32 coefficients. With fp16 a token's coefficients are
// scaled by a power of two to lie near 1.
#pragma once
#include "cuda/device.cuh"
#include "cuda/plan.h"

namespace dpg {
namespace cuda {
namespace {

struct Bank {
  const float* u;  // [T, r]; null when a tile makes its own
  const void* B;
  int64_t ldb;
};
struct Expand {
  Bank bank[2];
  const float* codes;
  int64_t code_rows;
  const int32_t* slots;
  float scale;
  int K, r;
  Divisor by_rank;
  bool eights;        // r is a multiple of 8 and u lies on 8 bytes: eight neighbouring rows have one entry k
  bool aligned;       // everything that a kernel reads or writes in 16 bytes lies on 16 bytes
  int rows_at_once;   // bank rows in shared memory at a time, a multiple of 16
};

// ---- halves: the bank's columns --------------------------------------------------------------------------------------

// A warp has 16 tokens of GROUPS groups of 32 columns; WM warps stand in the direction of tokens, WN in that of columns.
template <int WM, int WN, int GROUPS>
struct Tiling {
  static constexpr int kTokens = 16 * WM, kGroups = WN * GROUPS, kColumns = 32 * kGroups, kThreads = 32 * WM * WN;
  static constexpr int kWarpM = WM, kWarpN = WN, kPerWarp = GROUPS;
};
// What a lane holds of its warp's tile: rows lane / 4 and lane / 4 + 8, in each group the columns 8 (lane % 4) and up.
constexpr int kItem = 1024;  // bytes: sixteen bank rows of one group of columns

// Where 16-byte piece c of row `row` waits in an item, such that the eight lanes that a bank conflict could involve do not meet.
__device__ __forceinline__ int piece_at(int row, int c) {
  return row / 2 * 8 + ((row ^ row / 2) & 1) * 4 + (c ^ (row / 4 & 1) * 2);
}

// Starts the way of 16 bytes of a row, zeros where fewer columns than that are left; aligned: all or none of them are.
template <class T>
__device__ __forceinline__ void fetch_pack(bool aligned, const T* base, int64_t offset, int64_t left, unsigned char* to) {
  if (aligned) {
    copy_async(to, base + (left > 0 ? offset : 0), left > 0 ? 16 : 0);
  } else {
#pragma unroll 1
    for (int i = 0; i < Pack<T>::n; ++i) reinterpret_cast<T*>(to)[i] = i < left ? base[offset + i] : T{};
  }
}
// Starts the way of bank rows [e0, e0 + 16 steps) and the block's columns to shared memory, zeros beyond the bank.
template <class T, class Tile, int BANKS>
__device__ __forceinline__ void fetch_columns(const Expand& p, int e0, int steps, int64_t column0, int64_t width,
                                              unsigned char* staged) {
  constexpr int kPieces = Tile::kGroups * 4;  // of a row
  const int kr = p.K * p.r, of_bank = steps * 16 * kPieces;
  for (int i = threadIdx.x; i < BANKS * of_bank; i += Tile::kThreads) {
    const int second = BANKS == 2 && i >= of_bank, at = i - second * of_bank;
    const int piece = at % kPieces, row = at / kPieces % 16, step = at / kPieces / 16;
    const Bank& bank = second ? p.bank[1] : p.bank[0];
    const int e = e0 + step * 16 + row;
    const int64_t column = column0 + piece * 8;
    unsigned char* to = staged + ((second * steps + step) * Tile::kGroups + piece / 4) * kItem + piece_at(row, piece % 4) * 16;
    fetch_pack(p.aligned, static_cast<const T*>(bank.B), e * bank.ldb + column, e < kr ? width - column : 0, to);
  }
}

template <class T>
__device__ __forceinline__ Pack<T> own_pack(const unsigned char* at) {
  return load_pack(true, reinterpret_cast<const T*>(at), 1);
}

// Turns each item into the registers of mma: four products, of every fourth column, so that a lane ends up with eight
// neighbouring columns. (ldmatrix would give it two.) Between barriers; an item belongs to one warp.
template <class Tile, int BANKS>
__device__ __forceinline__ void arrange_columns(int steps, unsigned char* staged) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll 2
  for (int i = threadIdx.x / 32; i < BANKS * steps * Tile::kGroups; i += Tile::kThreads / 32) {
    unsigned char* item = staged + i * kItem;
    uint2 w[4];
#pragma unroll
    for (int n = 0; n < 4; ++n)
      w[n] = load<uint2>(item + piece_at(2 * t + n % 2 + 8 * (n / 2), g / 2) * 16 + g % 2 * 8);
    __syncwarp();
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // of a row's four columns; two products each
      const auto word = [&](int n) { return half ? w[n].y : w[n].x; };
      store(item + half * 512 + lane * 16,
            make_uint4(__byte_perm(word(0), word(1), 0x5410), __byte_perm(word(2), word(3), 0x5410),
                       __byte_perm(word(0), word(1), 0x7632), __byte_perm(word(2), word(3), 0x7632)));
    }
  }
}

// ---- halves: coefficients --------------------------------------------------------------------------------------------

// A lane's two token rows. Without a slot a row has another's codes: its sums are not used, and rows do not mix.
struct Rows {
  int slot[2];
  const float* code[2];
};

__device__ __forceinline__ Rows rows_of_lane(const Expand& p, int64_t token0, int64_t tokens) {
  Rows rows;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    rows.slot[i] = slot_of(p.slots, token0 + threadIdx.x % 32 / 4 + 8 * i, tokens, p.code_rows);
    rows.code[i] = p.codes + static_cast<int64_t>(rows.slot[i] < 0 ? 0 : rows.slot[i]) * p.K;
  }
  return rows;
}

// fp16: the power of two that brings a row's largest coefficient near 1, and its inverse. The row's four lanes take part.
struct Power {
  float up, down;
};
__device__ __forceinline__ Power power_of_row(const Expand& p, const float* codes, const float* u) {
  float code = 0.0f, most = 0.0f;
  for (int k = threadIdx.x % 4; k < p.K; k += 4) code = fmaxf(code, fabsf(p.scale * codes[k]));
  for (int j = threadIdx.x % 4; j < p.r; j += 4) most = fmaxf(most, fabsf(u[j]));
#pragma unroll
  for (int mask = 2; mask; mask /= 2) {
    code = fmaxf(code, __shfl_xor_sync(kFullWarp, code, mask));
    most = fmaxf(most, __shfl_xor_sync(kFullWarp, most, mask));
  }
  // Exponents alone, kept where the power and its inverse are normal numbers.
  int exponent = static_cast<int>(__float_as_uint(code * most) >> 23);
  exponent = exponent < 2 ? 2 : exponent > 252 ? 252 : exponent;
  return Power{__uint_as_float(static_cast<uint32_t>(254 - exponent) << 23),
               __uint_as_float(static_cast<uint32_t>(exponent) << 23)};
}

// The coefficients of one step of one bank as the registers of mma.
struct Coefficients {
  uint32_t high[4], low[4];
  template <class T>
  __device__ __forceinline__ void set(int reg, float a, float b) {
    high[reg] = rounded_pair<T>(a, b);
    low[reg] = rounded_pair<T>(a - low_of<T>(high[reg]), b - high_of<T>(high[reg]));
  }
};

// One bank's sums and what its coefficients are made of.
template <class T, int GROUPS>
struct Delta {
  float acc[GROUPS][4][4];  // product n of columns 4g + n: rows g, g+8 at columns 8t + n, 8t + 4 + n
  const float* u[2];
  Power power[2];

  __device__ __forceinline__ void start(const Expand& p, const Rows& rows, const float* u0, const float* u1) {
    u[0] = u0;
    u[1] = u1;
#pragma unroll
    for (int q = 0; q < GROUPS; ++q)
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) acc[q][n][i] = 0.0f;
    if constexpr (std::is_same<T, f16>::value) {
#pragma unroll
      for (int i = 0; i < 2; ++i) power[i] = power_of_row(p, rows.code[i], u[i]);
    }
  }

  __device__ __forceinline__ float scaled(float c, int i) const {
    if constexpr (std::is_same<T, f16>::value) return c * power[i].up;
    return c;
  }

  // code[h][i]: scale * code of half h and row i, 0 beyond the bank; j[h]: the half's first rank.
  __device__ __forceinline__ void eights(const int (&j)[2], const float (&code)[2][2], Coefficients& out) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float2 inner = load<float2>(u[i] + threadIdx.x % 4 * 2 + j[h]);
        out.template set<T>(2 * h + i, scaled(code[h][i] * inner.x, i), scaled(code[h][i] * inner.y, i));
      }
  }
  __device__ __forceinline__ void any(const Expand& p, int e, const Rows& rows, Coefficients& out) const {
    const int kr = p.K * p.r;
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float c[2];
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const int row = e + 8 * h + 2 * static_cast<int>(threadIdx.x % 4) + n, read = row < kr ? row : kr - 1;
          const int k = p.by_rank.of(read);
          c[n] = scaled((p.scale * rows.code[i][k]) * u[i][read - k * p.r], i);
          c[n] = row < kr ? c[n] : 0.0f;
        }
        out.template set<T>(2 * h + i, c[0], c[1]);
      }
  }

  __device__ __forceinline__ void products(const Coefficients& c, const unsigned char* item) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int q = 0; q < GROUPS; ++q) {
      const uint4 b0 = load<uint4>(item + q * kItem + lane * 16), b1 = load<uint4>(item + q * kItem + 512 + lane * 16);
      const uint32_t b[8] = {b0.x, b0.y, b0.z, b0.w, b1.x, b1.y, b1.z, b1.w};
#pragma unroll
      for (int n = 0; n < 4; ++n) mma<T>(acc[q][n], c.high, b[2 * n], b[2 * n + 1]);
#pragma unroll
      for (int n = 0; n < 4; ++n) mma<T>(acc[q][n], c.low, b[2 * n], b[2 * n + 1]);
    }
  }

  // v += the delta of row i (0, 1) and this lane's eight columns of group q.
  __device__ __forceinline__ void add_to(float (&v)[8], int q, int i) const {
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      float more = acc[q][c % 4][2 * i + c / 4];
      if constexpr (std::is_same<T, f16>::value) more *= power[i].down;
      v[c] += more;
    }
  }
};

// All banks' sums for the warp's tile of bank rows [e0, e0 + 16 steps), which lie arranged in shared memory.
template <class T, class Tile, int BANKS>
__device__ __forceinline__ void sum_rows(const Expand& p, const Rows& rows, int e0, int steps, const unsigned char* staged,
                                         Delta<T, Tile::kPerWarp> (&delta)[BANKS]) {
  const unsigned char* item = staged + threadIdx.x / 32 / Tile::kWarpM * Tile::kPerWarp * kItem;
  const int of_step = Tile::kGroups * kItem, of_bank = steps * of_step;
  if (p.eights) {
#pragma unroll 1
    for (int step = 0; step < steps; ++step, item += of_step) {
      const int e = e0 + step * 16;
      int j[2];
      float code[2][2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const bool there = e + 8 * h < p.K * p.r;
        const int k = there ? p.by_rank.of(e + 8 * h) : 0;
        j[h] = there ? e + 8 * h - k * p.r : 0;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          code[h][i] = p.scale * rows.code[i][k];
          if (!there) code[h][i] = 0.0f;
        }
      }
#pragma unroll
      for (int b = 0; b < BANKS; ++b) {
        Coefficients c;
        delta[b].eights(j, code, c);
        delta[b].products(c, item + b * of_bank);
      }
    }
  } else {
#pragma unroll 1
    for (int step = 0; step < steps; ++step, item += of_step) {
#pragma unroll
      for (int b = 0; b < BANKS; ++b) {
        Coefficients c;
        delta[b].any(p, e0 + step * 16, rows, c);
        delta[b].products(c, item + b * of_bank);
      }
    }
  }
}

// Starts the way of the first rows that the block will hold. The caller looks slots and inputs up meanwhile.
template <class T, class Tile, int BANKS>
__device__ __forceinline__ int fetch_rows(const Expand& p, int e0, int64_t column0, int64_t width, unsigned char* staged) {
  const int steps = static_cast<int>(ceil_div(smaller(p.K * p.r - e0, p.rows_at_once), 16));
  fetch_columns<T, Tile, BANKS>(p, e0, steps, column0, width, staged);
  return steps;
}

// The sums of the warp's tile; active: it has a token with a slot. The whole block takes part. `first` says that
// this is the block's first tile, for which fetch_rows has been called. A bank that fits is read once for all tiles.
template <class T, class Tile, int BANKS>
__device__ __forceinline__ void sum_tile(const Expand& p, const Rows& rows, bool active, bool first, int64_t column0,
                                         int64_t width, unsigned char* staged, Delta<T, Tile::kPerWarp> (&delta)[BANKS]) {
  const int kr = p.K * p.r;
  for (int e0 = 0; e0 < kr; e0 += p.rows_at_once) {
    int steps = static_cast<int>(ceil_div(smaller(kr - e0, p.rows_at_once), 16));
    if (first || kr > p.rows_at_once) {
      if (!first || e0) {
        __syncthreads();
        steps = fetch_rows<T, Tile, BANKS>(p, e0, column0, width, staged);
      }
      wait_copies();
      __syncthreads();
      arrange_columns<Tile, BANKS>(steps, staged);
      __syncthreads();
    }
    if (active) sum_rows<T, Tile, BANKS>(p, rows, e0, steps, staged, delta);
  }
}

// ---- float32 ---------------------------------------------------------------------------------------------------------

constexpr int kFloatTokens = 16, kFloatColumns = 128, kFloatThreads = 128;
constexpr int kFloatBlock = 64;   // bank rows summed by themselves, for shorter sums round less
constexpr int kFloatChunk = 256;  // bank rows whose coefficients are in shared memory at a time

// A warp has 4 tokens of all 128 columns; a lane four columns.
__device__ __forceinline__ int float_row(int i) { return threadIdx.x / 32 * 4 + i; }
__device__ __forceinline__ int float_column() { return threadIdx.x % 32 * 4; }
__host__ __device__ constexpr int64_t float_coefficient_bytes(int64_t kr) { return smaller(kr, kFloatChunk) * kFloatTokens * 4; }

// acc[token][column] = the delta of one bank for a tile of 16 tokens, whose slots are in shared memory; u: [16, r]. The
// whole block takes part; coef is free again after the next barrier.
__device__ __forceinline__ void sum_float(const Expand& p, const Bank& bank, const int* slots, const float* u, float* coef,
                                          int64_t column, int64_t width, float (&acc)[4][4]) {
  const int kr = p.K * p.r;
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int n = 0; n < 4; ++n) acc[i][n] = 0.0f;
  for (int e0 = 0; e0 < kr; e0 += kFloatChunk) {
    const int e1 = static_cast<int>(smaller(e0 + kFloatChunk, kr));
    __syncthreads();
    for (int i = threadIdx.x; i < (e1 - e0) * kFloatTokens; i += kFloatThreads) {
      const int t = i % kFloatTokens, slot = slots[t], e = e0 + i / kFloatTokens, k = p.by_rank.of(e);
      const float code = p.codes[static_cast<int64_t>(slot < 0 ? 0 : slot) * p.K + k];
      const float value = (p.scale * code) * u[(slot < 0 ? 0 : t) * p.r + e - k * p.r];
      coef[i] = slot >= 0 ? value : 0.0f;
    }
    __syncthreads();
    const float* b = static_cast<const float*>(bank.B) + e0 * bank.ldb + column;
    const float* c = coef + float_row(0);
    for (int block = e0; block < e1; block += kFloatBlock) {
      float sum[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int n = 0; n < 4; ++n) sum[i][n] = 0.0f;
      const int end = static_cast<int>(smaller(block + kFloatBlock, e1));
#pragma unroll 4
      for (int e = block; e < end; ++e, b += bank.ldb, c += kFloatTokens) {
        const Pack<float> columns = load_pack(p.aligned, b, width - column);
        const float4 four = load<float4>(c);
        const float rows[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
          for (int n = 0; n < 4; ++n) sum[i][n] = fmaf(rows[i], columns.v[n], sum[i][n]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int n = 0; n < 4; ++n) acc[i][n] += sum[i][n];
    }
  }
}

// ---- host ------------------------------------------------------------------------------------------------------------

inline bool bank_aligned(const Bank& bank, int64_t size) { return rows_aligned16(bank.B, bank.ldb, size); }

inline Expand expand_of(const Bank& first, const Bank& second, const void* codes, int64_t code_rows, const void* slots,
                        double scale, int64_t K, int64_t r) {
  const auto on8 = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 8 == 0; };
  return Expand{{first, second}, static_cast<const float*>(codes), code_rows, static_cast<const int32_t*>(slots),
                static_cast<float>(scale), static_cast<int>(K), static_cast<int>(r),
                divisor(r), r % 8 == 0 && on8(first.u) && on8(second.u), false, 0};
}

}  // namespace
}  // namespace cuda
}  // namespace dpg
