// lora_shrink: u[g, t] = sum_k codes[slots[t], k] * (A[g, k] x[t]).
//
// Order of the sums, the same in every kernel here, so that a token's bits depend on nothing but its own row: d is cut
// into at most eight pieces whose length depends on d alone; a piece is summed from its start; pieces are added in
// order; then entries k
// (combine_entries). A block's eight warps take one piece each, so there is no workspace and no second
// launch. A block computes all K entries of J ranks j of one group (a "slab") for a tile of tokens.
#include "cuda/device.cuh"

namespace dpg {
namespace cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kMaxK = 64;

struct Shrink {
  const void* x;
  int64_t ldx;
  const void* A;
  const float* codes;
  int64_t code_rows;
  const int32_t* slots;
  float* u;
  int64_t tokens, d, piece;
  int groups, K, r, slab, slabs;  // slab: ranks per block; slabs: blocks per group
  Divisor by_entries, by_slab;
};

// Row n of the block's slab: rank j0 + n / K, entry n % K. Where there is none, another row: its sums are not used, and so
// the loads need no condition, behind which the next ones would wait.
template <class T>
__device__ __forceinline__ const T* slab_row(const Shrink& p, int group, int j0, int n) {
  int j = p.K ? j0 + p.by_entries.of(n) : j0, k = p.K ? n - p.by_entries.of(n) * p.K : 0;
  if (n >= p.slab * p.K || j >= p.r) j = j0, k = 0;
  return static_cast<const T*>(p.A) + ((static_cast<int64_t>(group) * p.K + k) * p.r + j) * p.d;
}

// From partial sums [kWarps][tile][stride] in shared memory: pieces in order, entries in order, store.
__device__ __forceinline__ void combine(const Shrink& p, const float* partial, int tile, int stride, const int* slots,
                                        int64_t token0, int group, int j0) {
  for (int i = threadIdx.x; i < tile * p.slab; i += kThreads) {
    const int t = p.by_slab.of(i), j = i - t * p.slab;
    const int64_t token = token0 + t;
    if (token >= p.tokens || j0 + j >= p.r) continue;
    float value = 0.0f;
    if (slots[t] >= 0) {
      const float* code = p.codes + static_cast<int64_t>(slots[t]) * p.K;
      const float* s = partial + t * stride + j * p.K;
      value = combine_entries(code, p.K, [&](int k) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) sum += s[w * tile * stride + k];  // warps without a piece have left zeros
        return sum;
      });
    }
    p.u[(static_cast<int64_t>(group) * p.tokens + token) * p.r + j0 + j] = value;
  }
}

// The slots of the block's tokens, into shared memory; false when none of them has one (u is then set to zero).
__device__ __forceinline__ bool read_slots(const Shrink& p, int* slots, int tile, int64_t token0, int group, int j0) {
  int any = 0;
  for (int i = threadIdx.x; i < tile; i += kThreads) {
    slots[i] = slot_of(p.slots, token0 + i, p.tokens, p.code_rows);
    any |= slots[i] >= 0;
  }
  if (__syncthreads_or(any)) return true;
  for (int i = threadIdx.x; i < tile * p.slab; i += kThreads) {
    const int t = p.by_slab.of(i), j = j0 + i - t * p.slab;
    const int64_t token = token0 + t;
    if (token < p.tokens && j < p.r) p.u[(static_cast<int64_t>(group) * p.tokens + token) * p.r + j] = 0.0f;
  }
  return false;
}

// ---- halves: tensor cores --------------------------------------------------------------------------------------------

// Products of MT tiles of 16 tokens with NT tiles of 8 slab rows, and which row of which tensor a lane reads.
template <class T, int MT, int NT, bool ALIGNED>
struct HalfTile {
  // Steps of 32 columns whose loads are all on their way before the first product.
  static constexpr int kBatch = !ALIGNED ? 1 : MT * NT == 1 ? 8 : MT * NT <= 4 ? 4 : MT * NT <= 8 ? 2 : 1;

  const T* x[2 * MT];
  const T* a[NT];
  float acc[MT][NT][4];

  // A lane's 16-byte load of 8 neighbouring elements serves two products: which of the 32 columns at hand meet in which
  // product is free, as long as x and A agree.
  template <int STEPS, bool WHOLE>
  __device__ __forceinline__ void batch(int64_t c0, int64_t end) {
    const int64_t c = c0 + threadIdx.x % 4 * 8;
    Pack<T> xs[STEPS][2 * MT], as[STEPS][NT];
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
#pragma unroll
      for (int n = 0; n < NT; ++n) as[s][n] = load_columns<ALIGNED, WHOLE>(a[n], c + 32 * s, end);
#pragma unroll
      for (int i = 0; i < 2 * MT; ++i) xs[s][i] = load_columns<ALIGNED, WHOLE>(x[i], c + 32 * s, end);
    }
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        uint32_t low[4], high[4];
        memcpy(low, &xs[s][2 * m], 16);
        memcpy(high, &xs[s][2 * m + 1], 16);
#pragma unroll
        for (int step = 0; step < 2; ++step) {
          const uint32_t frag[4] = {low[2 * step], high[2 * step], low[2 * step + 1], high[2 * step + 1]};
#pragma unroll
          for (int n = 0; n < NT; ++n) {
            uint32_t b[4];
            memcpy(b, &as[s][n], 16);
            mma<T>(acc[m][n], frag, b[2 * step], b[2 * step + 1]);
          }
        }
      }
    }
  }

  // Columns [c, end). No batch tests which of its steps exist: loads behind a test would wait for the products before it.
  __device__ __forceinline__ void sum(int64_t c, int64_t end) {
    for (; c + 32 * kBatch <= end; c += 32 * kBatch) batch<kBatch, true>(c, end);
    rest<kBatch>(c, end);
  }
  // Less than STEPS steps, the last of them perhaps in part.
  template <int STEPS>
  __device__ __forceinline__ void rest(int64_t c, int64_t end) {
    if constexpr (STEPS == 1) {
      if (c < end) batch<1, false>(c, end);
    } else {
      if (ceil_div(end - c, 32) >= STEPS / 2) {
        batch<STEPS / 2, false>(c, end);
        c += 32 * (STEPS / 2);
      }
      rest<STEPS / 2>(c, end);
    }
  }
};

template <class T, int MT, int NT, bool ALIGNED>
__device__ __forceinline__ void shrink_half(const Shrink& p) {
  constexpr int kTile = MT * 16, kRows = NT * 8;
  constexpr int kStride = kRows + 1;  // odd, against bank conflicts
  float* partial = reinterpret_cast<float*>(shared_memory());
  int* slots = reinterpret_cast<int*>(partial + kWarps * 16 * kStride);
  const int group = blockIdx.x / p.slabs, j0 = static_cast<int>(blockIdx.x % p.slabs) * p.slab;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  HalfTile<T, MT, NT, ALIGNED> tile;
#pragma unroll
  for (int n = 0; n < NT; ++n) tile.a[n] = slab_row<T>(p, group, j0, n * 8 + g);

  for (int64_t token0 = static_cast<int64_t>(blockIdx.y) * kTile; token0 < p.tokens;
       token0 += static_cast<int64_t>(gridDim.y) * kTile) {
    __syncthreads();
    if (!read_slots(p, slots, kTile, token0, group, j0)) continue;
#pragma unroll
    for (int i = 0; i < 2 * MT; ++i) {  // without a slot: the first token's row, whose products are not used
      const int64_t token = slots[8 * i + g] >= 0 ? token0 + 8 * i + g : token0;
      tile.x[i] = static_cast<const T*>(p.x) + token * p.ldx;
    }
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int n = 0; n < NT; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) tile.acc[m][n][e] = 0.0f;

    tile.sum(warp * p.piece, smaller((warp + 1) * p.piece, p.d));
#pragma unroll
    for (int m = 0; m < MT; ++m) {
      if (m) __syncthreads();
#pragma unroll
      for (int n = 0; n < NT; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          partial[(warp * 16 + g + 8 * (e / 2)) * kStride + n * 8 + 2 * t + e % 2] = tile.acc[m][n][e];
      __syncthreads();
      combine(p, partial, 16, kStride, slots + m * 16, token0 + m * 16, group, j0);
    }
  }
}

template <class T, int NT, bool ALIGNED>
__global__ void __launch_bounds__(kThreads, 1) lora_shrink_decode(const Shrink p) {
  shrink_half<T, 1, NT, ALIGNED>(p);
}
template <class T, int NT>
__global__ void __launch_bounds__(kThreads, 1) lora_shrink_prefill(const Shrink p) {
  shrink_half<T, 4, NT, true>(p);
}

// ---- float32 ---------------------------------------------------------------------------------------------------------

constexpr int kFloatRows = 8;  // slab rows at a time

// Adds N values over the lanes of a warp, as a tree; lane l is left with the sums number l*N/32 to (l+1)*N/32 in front.
template <int N, int MASK>
__device__ __forceinline__ void add_lanes(float* v, int lane) {
  const bool upper = lane & MASK;
#pragma unroll
  for (int i = 0; i < N / 2; ++i) {
    const float keep = upper ? v[N / 2 + i] : v[i], give = upper ? v[i] : v[N / 2 + i];
    v[i] = keep + __shfl_xor_sync(kFullWarp, give, MASK);
  }
  if constexpr (MASK > 1) add_lanes<N / 2, MASK / 2>(v, lane);
}

// TT tokens. Within a piece, lane l sums columns 4l .. 4l+3 of every 128, then the lanes are added as a tree.
template <int TT, bool ALIGNED>
__device__ __forceinline__ void shrink_float(const Shrink& p) {
  const int rows = p.slab * p.K;
  const int stride = rows + 1;
  float* partial = reinterpret_cast<float*>(shared_memory());
  int* slots = reinterpret_cast<int*>(partial + kWarps * TT * stride);
  const int group = blockIdx.x / p.slabs, j0 = static_cast<int>(blockIdx.x % p.slabs) * p.slab;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  for (int64_t token0 = static_cast<int64_t>(blockIdx.y) * TT; token0 < p.tokens;
       token0 += static_cast<int64_t>(gridDim.y) * TT) {
    __syncthreads();
    if (!read_slots(p, slots, TT, token0, group, j0)) continue;
    const float* x[TT];
#pragma unroll
    for (int t = 0; t < TT; ++t)
      x[t] = static_cast<const float*>(p.x) + (slots[t] >= 0 ? token0 + t : token0) * p.ldx;
    const int64_t end = smaller((warp + 1) * p.piece, p.d);
    for (int n0 = 0; n0 < rows; n0 += kFloatRows) {
      const float* a[kFloatRows];
#pragma unroll
      for (int n = 0; n < kFloatRows; ++n) a[n] = slab_row<float>(p, group, j0, n0 + n);
      float acc[TT * kFloatRows];
#pragma unroll
      for (int i = 0; i < TT * kFloatRows; ++i) acc[i] = 0.0f;
      for (int64_t c0 = warp * p.piece; c0 < end; c0 += 128) {
        const int64_t c = c0 + 4 * lane;
        Pack<float> xs[TT], as[kFloatRows];
#pragma unroll
        for (int n = 0; n < kFloatRows; ++n) as[n] = load_columns<ALIGNED, false>(a[n], c, end);
#pragma unroll
        for (int t = 0; t < TT; ++t) xs[t] = load_columns<ALIGNED, false>(x[t], c, end);
#pragma unroll
        for (int n = 0; n < kFloatRows; ++n)
#pragma unroll
          for (int t = 0; t < TT; ++t)
#pragma unroll
            for (int e = 0; e < 4; ++e)
              acc[t * kFloatRows + n] = fmaf(xs[t].v[e], as[n].v[e], acc[t * kFloatRows + n]);
      }
      add_lanes<TT * kFloatRows, 16>(acc, lane);
      constexpr int kHeld = TT * kFloatRows / 32;
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const int t = (lane * kHeld + i) / kFloatRows, n = n0 + (lane * kHeld + i) % kFloatRows;
        if (n < rows) partial[(warp * TT + t) * stride + n] = acc[i];
      }
    }
    __syncthreads();
    combine(p, partial, TT, stride, slots, token0, group, j0);
  }
}

template <bool ALIGNED>
__global__ void __launch_bounds__(kThreads, 1) lora_shrink_f32_decode(const Shrink p) {
  shrink_float<4, ALIGNED>(p);
}
template <bool ALIGNED>
__global__ void __launch_bounds__(kThreads, 1) lora_shrink_f32_prefill(const Shrink p) {
  shrink_float<8, ALIGNED>(p);
}

// ---- launch ----------------------------------------------------------------------------------------------------------

// Cuts the ranks into slabs of as many whole ranks as `rows` slab rows hold, evenly.
void cut_slabs(Shrink& p, int rows) {
  const int most = p.K && rows / p.K > 1 ? rows / p.K : 1;
  p.slabs = static_cast<int>(ceil_div(p.r, smaller(most, p.r)));
  p.slab = static_cast<int>(ceil_div(p.r, p.slabs));
  p.slabs = static_cast<int>(ceil_div(p.r, p.slab));
  p.by_slab = divisor(p.slab);
}

dim3 grid_of(const Shrink& p, int tile) {
  return dim3(static_cast<unsigned>(p.groups * p.slabs),
              static_cast<unsigned>(smaller(ceil_div(p.tokens, tile), kMaxGridY)));
}

// Up to this many tokens, and wherever rows do not lie on 16 bytes, a block takes 16 of them (or 4, float32): enough blocks then
// read the bank.
constexpr int64_t kDecodeTokens = 64;

template <class T, bool ALIGNED>
int launch_half(Shrink p, void* stream) {
  const auto shared = [](int nt, int tile) { return (kWarps * 16 * (nt * 8 + 1) + tile) * sizeof(float); };
  if (ALIGNED && p.tokens > kDecodeTokens) {
    constexpr int kTile = 64;
    cut_slabs(p, 64);
    const dim3 grid = grid_of(p, kTile);
    const int64_t used = ceil_div(p.slab * p.K, 8);
    if (used <= 4) return launch(lora_shrink_prefill<T, 4>, grid, kThreads, shared(4, kTile), stream, p);
    if (used <= 6) return launch(lora_shrink_prefill<T, 6>, grid, kThreads, shared(6, kTile), stream, p);
    return launch(lora_shrink_prefill<T, 8>, grid, kThreads, shared(8, kTile), stream, p);
  }
  const int nt = p.K <= 8 ? 1 : p.K <= 16 ? 2 : p.K <= 32 ? 4 : 8;
  cut_slabs(p, nt * 8);
  if (nt == 1) return launch(lora_shrink_decode<T, 1, ALIGNED>, grid_of(p, 16), kThreads, shared(1, 16), stream, p);
  if (nt == 2) return launch(lora_shrink_decode<T, 2, ALIGNED>, grid_of(p, 16), kThreads, shared(2, 16), stream, p);
  if (nt == 4) return launch(lora_shrink_decode<T, 4, ALIGNED>, grid_of(p, 16), kThreads, shared(4, 16), stream, p);
  return launch(lora_shrink_decode<T, 8, ALIGNED>, grid_of(p, 16), kThreads, shared(8, 16), stream, p);
}

template <bool ALIGNED>
int launch_float(Shrink p, void* stream) {
  cut_slabs(p, kFloatRows);
  const auto shared = [&](int tile) { return (kWarps * tile * (p.slab * p.K + 1) + tile) * sizeof(float); };
  if (p.tokens > kDecodeTokens)
    return launch(lora_shrink_f32_prefill<ALIGNED>, grid_of(p, 8), kThreads, shared(8), stream, p);
  return launch(lora_shrink_f32_decode<ALIGNED>, grid_of(p, 4), kThreads, shared(4), stream, p);
}

}  // namespace
}  // namespace cuda
}  // namespace dpg

extern "C" int dpg_cuda_lora_shrink(int64_t type, const void* x, int64_t ldx, const void* A, const void* codes,
                                    int64_t code_rows, const void* slots, void* u, int64_t tokens, int64_t groups,
                                    int64_t K, int64_t r, int64_t d, void* stream) {
  using namespace dpg;
  using namespace dpg::cuda;
  if (tokens == 0 || groups == 0 || r == 0) return static_cast<int>(cudaSuccess);
  const int64_t piece = ceil_div(ceil_div(d > 0 ? d : 1, kWarps), 32) * 32;
  const Shrink p{x, ldx, A, static_cast<const float*>(codes), K <= kMaxK ? code_rows : 0,
                 static_cast<const int32_t*>(slots), static_cast<float*>(u), tokens, d, piece,
                 static_cast<int>(groups), static_cast<int>(K), static_cast<int>(r), 1, 1,
                 divisor(K), divisor(1)};
  const int64_t size = type == kF32 ? 4 : 2;
  const bool aligned = rows_aligned16(x, ldx, size) && rows_aligned16(A, d, size);
  if (type == kF32) return aligned ? launch_float<true>(p, stream) : launch_float<false>(p, stream);
  if (type == kBF16) return aligned ? launch_half<bf16, true>(p, stream) : launch_half<bf16, false>(p, stream);
  return aligned ? launch_half<f16, true>(p, stream) : launch_half<f16, false>(p, stream);
}
