// The expand of lora_expand_add and steered_gated_act: delta[t, c] = sum_e coef[t, e] * B[e, c] over the K*r bank rows e,
// coef[t, k*r + j] = (scale * codes[slots[t], k]) * u[t, j], for a tile of 16 tokens by 128 columns.
//
// Order of the sum, the same everywhere: rows e from the first to the last (float32: in blocks of 64, then the blocks);
// halves take sixteen at a time through the tensor cores, each coefficient as the sum of two halves (the second is what
// rounding left over), so that the delta is as good as with float32 coefficients. With fp16 a token's coefficients are
// scaled by a power of two to lie near 1.
#pragma once
#include "cuda/device.cuh"

namespace dpg {
namespace cuda {
namespace {

constexpr int kTileTokens = 16;
constexpr int kTileColumns = 128;
constexpr int kTileThreads = 128;
constexpr int kFloatBlock = 64;  // float32: bank rows summed by themselves, for shorter sums round less
constexpr int kChunk = 256;  // bank rows whose coefficients are in shared memory at a time

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
};

// Which token rows and columns of the tile a thread holds: rows() rows, 16 bytes of neighbouring columns in each.
template <class T>
struct Place {  // halves: a warp has all 16 tokens of 32 columns
  static constexpr int kRows = 2, kColumns = 8;
  __device__ static __forceinline__ int row(int i) { return threadIdx.x % 32 / 4 + 8 * i; }
  __device__ static __forceinline__ int column() { return threadIdx.x / 32 * 32 + threadIdx.x % 4 * 8; }
};
template <>
struct Place<float> {  // a warp has 4 tokens of all 128 columns
  static constexpr int kRows = 4, kColumns = 4;
  __device__ static __forceinline__ int row(int i) { return threadIdx.x / 32 * 4 + i; }
  __device__ static __forceinline__ int column() { return threadIdx.x % 32 * 4; }
};

// The row of this thread's tile row i, or the tile's first where there are no more tokens.
template <class T>
__device__ __forceinline__ const T* row_of_tile(const void* base, int64_t ld, int64_t token0, int i, int64_t tokens) {
  const int64_t token = token0 + Place<T>::row(i);
  return static_cast<const T*>(base) + (token < tokens ? token : token0) * ld;
}

// Bytes of shared memory: coefficients of one bank's chunk, staged columns of one bank's `steps` steps.
template <class T>
__host__ __device__ constexpr int64_t coefficient_bytes(int64_t kr) {
  return (sizeof(T) == 2 ? ceil_div(smaller(kr, kChunk), 16) * 1024 : smaller(kr, kChunk) * kTileTokens * 4);
}
__host__ __device__ constexpr int64_t staged_bytes(int64_t kr) { return ceil_div(kr, 16) * 4 * 1024; }

// Starts the way of the tile's bank columns from memory to L2, while slots, codes and u are being looked up.
template <class T, int BANKS>
__device__ __forceinline__ void prefetch_banks(const Expand& p, int64_t column0, int64_t width) {
  constexpr int kLine = 128 / sizeof(T), kLines = kTileColumns / kLine;
  const int kr = p.K * p.r;
  for (int i = threadIdx.x; i < BANKS * kr * kLines; i += kTileThreads) {
    const int second = BANKS == 2 && i >= kr * kLines, e = (i - second * kr * kLines) / kLines;
    const Bank& bank = second ? p.bank[1] : p.bank[0];
    const int64_t column = column0 + i % kLines * kLine;
    if (column < width) prefetch_l2(static_cast<const T*>(bank.B) + e * bank.ldb + column);
  }
}

// ---- coefficients ----------------------------------------------------------------------------------------------------

// fp16: for each token of the tile the power of two that brings its largest coefficient near 1, and its inverse.
template <int BANKS>
__device__ __forceinline__ void find_powers(const Expand& p, const int* slots, const float* const (&u_of)[BANKS],
                                            float* powers) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < BANKS * kTileTokens / 4; ++n) {
    const int i = 4 * n + warp, t = i % kTileTokens, slot = slots[t] < 0 ? 0 : slots[t];
    const float* codes = p.codes + static_cast<int64_t>(slot) * p.K;
    const float* of_token = (i < kTileTokens ? u_of[0] : u_of[BANKS - 1]) + (slots[t] < 0 ? 0 : t) * p.r;
    float code = fabsf(p.scale * codes[lane < p.K ? lane : 0]), u = fabsf(of_token[lane < p.r ? lane : 0]);
    for (int k = lane + 32; k < p.K; k += 32) code = fmaxf(code, fabsf(p.scale * codes[k]));
    for (int j = lane + 32; j < p.r; j += 32) u = fmaxf(u, fabsf(of_token[j]));
#pragma unroll
    for (int mask = 16; mask; mask /= 2) {
      code = fmaxf(code, __shfl_xor_sync(kFullWarp, code, mask));
      u = fmaxf(u, __shfl_xor_sync(kFullWarp, u, mask));
    }
    // Exponents alone, kept where the power and its inverse are normal numbers.
    int exponent = static_cast<int>(__float_as_uint(code * u) >> 23);
    exponent = exponent < 2 ? 2 : exponent > 252 ? 252 : exponent;
    if (lane == 0) {
      powers[2 * i] = __uint_as_float(static_cast<uint32_t>(254 - exponent) << 23);
      powers[2 * i + 1] = __uint_as_float(static_cast<uint32_t>(exponent) << 23);
    }
  }
}

// Coefficient e of tile token t, 0 without a slot or beyond the bank. The loads have no condition: they read another token
// or row then.
__device__ __forceinline__ float coefficient(const Expand& p, const int* slots, int t, const float* u, int e) {
  const int kr = p.K * p.r, slot = slots[t];
  const int row = e < kr ? e : kr - 1, k = row / p.r, j = row - k * p.r;
  const float code = p.codes[static_cast<int64_t>(slot < 0 ? 0 : slot) * p.K + k];
  const float value = (p.scale * code) * u[(slot < 0 ? 0 : t) * p.r + j];
  return slot >= 0 && e < kr ? value : 0.0f;
}

// Bank rows [e0, e1) into coef: halves as the registers of each lane for each step of sixteen (first the rounded
// coefficients, then the rest), float32 as [e][token].
template <class T>
__device__ __forceinline__ void fill_coefficients(const Expand& p, int bank, const int* slots, const float* u, int e0,
                                                  int e1, const float* powers, unsigned char* coef) {
  if constexpr (sizeof(T) == 4) {
    float* out = reinterpret_cast<float*>(coef);
#pragma unroll 4
    for (int i = threadIdx.x; i < (e1 - e0) * kTileTokens; i += kTileThreads) {
      const int t = i % kTileTokens;
      out[i] = coefficient(p, slots, t, u, e0 + i / kTileTokens);
    }
  } else {
    const int steps = static_cast<int>(ceil_div(e1 - e0, 16));
    for (int i = threadIdx.x; i < steps * 32; i += kTileThreads) {
      const int step = i / 32, lane = i % 32, g = lane / 4, t = lane % 4;
      uint32_t high[4], low[4];
#pragma unroll
      for (int reg = 0; reg < 4; ++reg) {
        const int row = g + 8 * (reg % 2), e = e0 + step * 16 + 2 * t + 8 * (reg / 2);
        uint16_t h[2], l[2];
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          float c = coefficient(p, slots, row, u, e + n);
          if constexpr (std::is_same<T, f16>::value) c *= powers[2 * (bank * kTileTokens + row)];
          const T first = rounded<T>(c);
          const float rest = c - as_float(first);
          h[n] = first.bits;
          l[n] = fabsf(c) < __uint_as_float(0x7f800000u) ? rounded<T>(rest).bits : static_cast<uint16_t>(0);
        }
        high[reg] = pair(h[0], h[1]);
        low[reg] = pair(l[0], l[1]);
      }
      uint4* out = reinterpret_cast<uint4*>(coef) + step * 64 + lane;
      store(out, make_uint4(high[0], high[1], high[2], high[3]));
      store(out + 32, make_uint4(low[0], low[1], low[2], low[3]));
    }
  }
}

// ---- sums ------------------------------------------------------------------------------------------------------------

// The part of one bank's delta that a thread holds.
template <class T>
struct Delta {
  float acc[4][4];  // product n of columns 4g + n: rows g, g+8 at columns 8t + n, 8t + 4 + n
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) acc[n][i] = 0.0f;
  }
  __device__ __forceinline__ float at(int row, int column) const { return acc[column % 4][2 * row + column / 4]; }

  // Steps [0, steps) from bank row e0 on. STAGED: the columns come from this thread's own part of shared memory.
  template <bool ALIGNED, bool STAGED>
  __device__ __forceinline__ void add(const Bank& bank, int e0, int e1, const unsigned char* coef, const uint4* staged,
                                      int64_t column0, int64_t width) {
    const int steps = static_cast<int>(ceil_div(e1 - e0, 16));
    const uint4* c = reinterpret_cast<const uint4*>(coef) + threadIdx.x % 32;
    if (STAGED) {
#pragma unroll 2
      for (int step = 0; step < steps; ++step) {
        const uint4* at = staged + (e0 / 16 + step) * 256;
        const uint4 b0 = load<uint4>(at), b1 = load<uint4>(at + 32);
        uint32_t b[8];
        memcpy(b, &b0, 16);
        memcpy(b + 4, &b1, 16);
        products(c + step * 64, b);
      }
      return;
    }
    int first = 0;
    if (ALIGNED) {
      for (; steps - first >= 6; first += 6) batch<6, ALIGNED>(bank, e0, e1, first, c, column0, width);
      if (steps - first >= 3) batch<3, ALIGNED>(bank, e0, e1, first, c, column0, width), first += 3;
      if (steps - first >= 2) batch<2, ALIGNED>(bank, e0, e1, first, c, column0, width), first += 2;
    }
    for (; first < steps; ++first) batch<1, ALIGNED>(bank, e0, e1, first, c, column0, width);
  }

  // Steps whose columns are all on their way before the first product. None of them tests whether it exists: loads behind
  // a test would wait for the products before it.
  template <int STEPS, bool ALIGNED>
  __device__ __forceinline__ void batch(const Bank& bank, int e0, int e1, int first, const uint4* coef, int64_t column0,
                                        int64_t width) {
    uint2 raw[STEPS][4];
#pragma unroll
    for (int i = 0; i < STEPS; ++i) rows_of<ALIGNED>(bank, e0 + (first + i) * 16, e1, column0, width, raw[i]);
#pragma unroll
    for (int i = 0; i < STEPS; ++i) {
      uint32_t b[8];
      fragments(raw[i], e0 + (first + i) * 16, e1, b);
      products(coef + (first + i) * 64, b);
    }
  }

  __device__ __forceinline__ void products(const uint4* coef, const uint32_t (&b)[8]) {
    const uint4 high = load<uint4>(coef), low = load<uint4>(coef + 32);
    const uint32_t a_high[4] = {high.x, high.y, high.z, high.w}, a_low[4] = {low.x, low.y, low.z, low.w};
#pragma unroll
    for (int n = 0; n < 4; ++n) mma<T>(acc[n], a_high, b[n], b[4 + n]);
#pragma unroll
    for (int n = 0; n < 4; ++n) mma<T>(acc[n], a_low, b[n], b[4 + n]);
  }

  // Four columns of each of the four bank rows that a lane has in the step from row e on. Beyond the bank's last row it
  // reads that one and beyond the last column the tile's first: no load has to wait for a condition.
  template <bool ALIGNED>
  __device__ static __forceinline__ void rows_of(const Bank& bank, int e, int e1, int64_t column0, int64_t width,
                                                 uint2 (&raw)[4]) {
    const int lane = threadIdx.x % 32;
    const int64_t column = column0 + threadIdx.x / 32 * 32 + 4 * (lane / 4);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = static_cast<int>(smaller(e + 2 * (lane % 4) + i % 2 + 8 * (i / 2), e1 - 1));
      const T* from = static_cast<const T*>(bank.B) + row * bank.ldb;
      if (ALIGNED) {
        raw[i] = load_constant<uint2>(from + (column < width ? column : column0));
      } else {
        uint16_t v[4];
#pragma unroll
        for (int n = 0; n < 4; ++n) v[n] = from[column + n < width ? column + n : column0].bits;
        raw[i] = make_uint2(pair(v[0], v[1]), pair(v[2], v[3]));
      }
    }
  }

  // The same as the registers of mma: four products, of every fourth column; 0 beyond the last row.
  __device__ static __forceinline__ void fragments(const uint2 (&raw)[4], int e, int e1, uint32_t (&b)[8]) {
    uint2 w[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool there = e + 2 * static_cast<int>(threadIdx.x % 4) + i % 2 + 8 * (i / 2) < e1;
      w[i] = make_uint2(there ? raw[i].x : 0, there ? raw[i].y : 0);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint2 even = w[2 * half], odd = w[2 * half + 1];
      b[4 * half] = __byte_perm(even.x, odd.x, 0x5410);
      b[4 * half + 1] = __byte_perm(even.x, odd.x, 0x7632);
      b[4 * half + 2] = __byte_perm(even.y, odd.y, 0x5410);
      b[4 * half + 3] = __byte_perm(even.y, odd.y, 0x7632);
    }
  }

  // Puts this thread's columns of all steps into its part of shared memory.
  template <bool ALIGNED>
  __device__ static __forceinline__ void stage(const Bank& bank, int kr, int64_t column0, int64_t width, uint4* staged) {
#pragma unroll 4
    for (int step = 0; step < static_cast<int>(ceil_div(kr, 16)); ++step) {
      uint2 raw[4];
      rows_of<ALIGNED>(bank, step * 16, kr, column0, width, raw);
      uint32_t b[8];
      fragments(raw, step * 16, kr, b);
      store(staged + step * 256, make_uint4(b[0], b[1], b[2], b[3]));
      store(staged + step * 256 + 32, make_uint4(b[4], b[5], b[6], b[7]));
    }
  }
};

template <>
struct Delta<float> {
  float acc[4][4];
  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) acc[n][i] = 0.0f;
  }
  __device__ __forceinline__ float at(int row, int column) const { return acc[row][column]; }

  template <bool ALIGNED, bool STAGED>
  __device__ __forceinline__ void add(const Bank& bank, int e0, int e1, const unsigned char* coef, const uint4*,
                                      int64_t column0, int64_t width) {
    const int64_t column = column0 + Place<float>::column();
    const float* b = static_cast<const float*>(bank.B) + e0 * bank.ldb + column;
    const float* c = reinterpret_cast<const float*>(coef) + Place<float>::row(0);
    for (int block = e0; block < e1; block += kFloatBlock) {
      float sum[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int n = 0; n < 4; ++n) sum[i][n] = 0.0f;
      const int end = static_cast<int>(smaller(block + kFloatBlock, e1));
#pragma unroll 4
      for (int e = block; e < end; ++e, b += bank.ldb, c += kTileTokens) {
        const Pack<float> columns = load_pack<ALIGNED>(b, width - column);
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
  template <bool ALIGNED>
  __device__ static __forceinline__ void stage(const Bank&, int, int64_t, int64_t, uint4*) {}
};

// ---- the tile --------------------------------------------------------------------------------------------------------

// What a tile keeps in shared memory before the coefficients.
struct TileShared {
  int slots[kTileTokens];
  float powers[2 * 2 * kTileTokens];
  SteerRow steer[kTileTokens];
};
constexpr int64_t kTileSharedBytes = (sizeof(TileShared) + 15) / 16 * 16;

template <class T, int BANKS>
int64_t tile_shared_bytes(int64_t kr, bool staged) {
  return kTileSharedBytes + BANKS * (coefficient_bytes<T>(kr) + (staged ? staged_bytes(kr) : 0));
}

template <class T, int BANKS>
__device__ __forceinline__ uint4* staged_columns(const Expand& p, int bank) {
  const int64_t kr = p.K * p.r;
  unsigned char* base = shared_memory() + kTileSharedBytes + BANKS * coefficient_bytes<T>(kr) + bank * staged_bytes(kr);
  return reinterpret_cast<uint4*>(base) + threadIdx.x / 32 * 64 + threadIdx.x % 32;
}

// Sums all banks for the tile's tokens, whose slots are in shared memory; u: [16, r] of each bank. The whole block takes
// part.
template <class T, int BANKS, bool ALIGNED, bool STAGED>
__device__ __forceinline__ void expand_tile(const Expand& p, TileShared& tile, const float* const (&u)[BANKS],
                                            int64_t column0, int64_t width, Delta<T> (&delta)[BANKS]) {
  const int kr = p.K * p.r;
  unsigned char* coef = shared_memory() + kTileSharedBytes;
  if constexpr (std::is_same<T, f16>::value) {
    find_powers<BANKS>(p, tile.slots, u, tile.powers);
    __syncthreads();
  }
#pragma unroll
  for (int b = 0; b < BANKS; ++b) delta[b].clear();
  for (int e0 = 0; e0 < kr; e0 += kChunk) {
    const int e1 = static_cast<int>(smaller(e0 + kChunk, kr));
    if (e0) __syncthreads();
#pragma unroll
    for (int b = 0; b < BANKS; ++b)
      fill_coefficients<T>(p, b, tile.slots, u[b], e0, e1, tile.powers, coef + b * coefficient_bytes<T>(kr));
    __syncthreads();
#pragma unroll
    for (int b = 0; b < BANKS; ++b)
      delta[b].template add<ALIGNED, STAGED>(p.bank[b], e0, e1, coef + b * coefficient_bytes<T>(kr),
                                             STAGED ? staged_columns<T, BANKS>(p, b) : nullptr, column0, width);
  }
  if constexpr (std::is_same<T, f16>::value) {
#pragma unroll
    for (int b = 0; b < BANKS; ++b)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float power = tile.powers[2 * (b * kTileTokens + Place<T>::row(i / 2)) + 1];
#pragma unroll
        for (int n = 0; n < 4; ++n) delta[b].acc[n][i] *= power;
      }
  }
}

// Up to this many tiles of tokens each gets a block of its own for every column block, and reads the bank itself. Beyond,
// a block keeps its columns and goes over several tiles; the grid then holds some blocks for every multiprocessor.
constexpr int64_t kDecodeTiles = 4;
constexpr int64_t kPrefillBlocks = 1024;

inline dim3 prefill_grid(int64_t blocks, int64_t tiles) {
  const int64_t wanted = ceil_div(kPrefillBlocks, blocks);
  return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(smaller(wanted, smaller(tiles, kMaxGridY))));
}

template <class T>
bool bank_aligned(const Bank& bank) {
  return aligned16(bank.B) && bank.ldb * sizeof(T) % 16 == 0;
}

}  // namespace
}  // namespace cuda
}  // namespace dpg
