// lora_expand_add: y[t] += delta[t], in place; tokens without a slot are not written. lora_stacked_add: the same for up to
// eight groups of columns, each with a u of its own, which the blocks combine from S as they need it: no second launch.
#include "cuda/expand.cuh"

namespace dpg {
namespace cuda {
namespace {

constexpr int kMaxGroups = 8;

struct ExpandAdd {
  Expand expand;
  void* y;
  int64_t ldy;
  const void* in;  // what the delta is added to; may be y
  int64_t ld_in, tokens;
  int64_t end[kMaxGroups];  // first column after each group; groups that do not exist have none
  const void* S;            // null: u is given
  int64_t lds;
  const float* codes_a;
};

// The group, first column and end of the group for this block's 128 columns: blocks never cross groups.
struct Columns {
  int64_t group, column0, end;
};
__device__ __forceinline__ Columns columns_of_block(const ExpandAdd& p) {
  Columns found{0, 0, 0};
  int64_t begin = 0, blocks = 0;
#pragma unroll
  for (int g = 0; g < kMaxGroups; ++g) {
    const int64_t more = ceil_div(p.end[g] - begin, kTileColumns);
    if (blockIdx.x >= blocks && blockIdx.x < blocks + more)
      found = Columns{g, begin + (blockIdx.x - blocks) * kTileColumns, p.end[g]};
    blocks += more;
    begin = p.end[g];
  }
  return found;
}

// A block has 128 columns and goes over tiles of 16 tokens; STAGED: it keeps the bank's columns in shared memory.
// STACKED: it makes u [16, r] from S, in shared memory behind the rest.
template <class T, bool ALIGNED, bool STAGED, bool STACKED>
__device__ __forceinline__ void expand_add(const ExpandAdd& p) {
  TileShared& tile = *reinterpret_cast<TileShared*>(shared_memory());
  const Columns at = columns_of_block(p);
  const int64_t column = at.column0 + Place<T>::column(), left = at.end - column;
  const int K = p.expand.K, r = p.expand.r;
  const int64_t u_at = kTileSharedBytes + coefficient_bytes<T>(K * r) + (STAGED ? staged_bytes(K * r) : 0);
  float* own_u = reinterpret_cast<float*>(shared_memory() + u_at);
  if (STAGED)
    Delta<T>::template stage<ALIGNED>(p.expand.bank[0], K * r, at.column0, at.end, staged_columns<T, 1>(p.expand, 0));
  for (int64_t token0 = static_cast<int64_t>(blockIdx.y) * kTileTokens; token0 < p.tokens;
       token0 += static_cast<int64_t>(gridDim.y) * kTileTokens) {
    __syncthreads();
    int slot = -1;
    if (threadIdx.x < kTileTokens) {
      slot = slot_of(p.expand.slots, token0 + threadIdx.x, p.tokens, p.expand.code_rows);
      tile.slots[threadIdx.x] = slot;
    }
    if (!__syncthreads_or(slot >= 0)) continue;
    if (!STAGED) prefetch_banks<T, 1>(p.expand, at.column0, at.end);
    Pack<T> y[Place<T>::kRows];
#pragma unroll
    for (int i = 0; i < Place<T>::kRows; ++i)
      y[i] = load_columns<ALIGNED, false>(row_of_tile<T>(p.in, p.ld_in, token0, i, p.tokens), column, at.end);
    Delta<T> delta[1];
    if (STACKED) {
      for (int i = threadIdx.x; i < kTileTokens * r; i += kTileThreads) {
        const int t = i / r, j = i % r;
        float value = 0.0f;
        if (tile.slots[t] >= 0) {
          const T* s = static_cast<const T*>(p.S) + (token0 + t) * p.lds + at.group * K * r + j;
          const float* code = p.codes_a + static_cast<int64_t>(tile.slots[t]) * K;
          value = combine_entries(code, K, [&](int k) { return as_float(s[k * r]); });
        }
        own_u[i] = value;
      }
      __syncthreads();
      const float* const u[1] = {own_u};
      expand_tile<T, 1, ALIGNED, STAGED>(p.expand, tile, u, at.column0, at.end, delta);
    } else {
      const float* const u[1] = {p.expand.bank[0].u + token0 * r};
      expand_tile<T, 1, ALIGNED, STAGED>(p.expand, tile, u, at.column0, at.end, delta);
    }
#pragma unroll
    for (int i = 0; i < Place<T>::kRows; ++i) {
      const int row = Place<T>::row(i);
      if (tile.slots[row] < 0) continue;
#pragma unroll
      for (int c = 0; c < Place<T>::kColumns; ++c) y[i].v[c] = rounded<T>(as_float(y[i].v[c]) + delta[0].at(i, c));
      store_pack<ALIGNED>(static_cast<T*>(p.y) + (token0 + row) * p.ldy + column, y[i], left);
    }
  }
}

template <class T, bool ALIGNED>
__global__ void __launch_bounds__(kTileThreads, 1) lora_expand_add_decode(const ExpandAdd p) {
  expand_add<T, ALIGNED, false, false>(p);
}
template <class T, bool ALIGNED>
__global__ void __launch_bounds__(kTileThreads, 1) lora_expand_add_prefill(const ExpandAdd p) {
  expand_add<T, ALIGNED, true, false>(p);
}
template <class T, bool ALIGNED>
__global__ void __launch_bounds__(kTileThreads, 1) lora_stacked_add_decode(const ExpandAdd p) {
  expand_add<T, ALIGNED, false, true>(p);
}
template <class T, bool ALIGNED>
__global__ void __launch_bounds__(kTileThreads, 1) lora_stacked_add_prefill(const ExpandAdd p) {
  expand_add<T, ALIGNED, true, true>(p);
}

template <class T, bool ALIGNED>
int launch_tiles(const ExpandAdd& p, void* stream) {
  const int64_t kr = static_cast<int64_t>(p.expand.K) * p.expand.r;
  const int64_t own_u = p.S ? kTileTokens * p.expand.r * static_cast<int64_t>(sizeof(float)) : 0;
  const int64_t tiles = ceil_div(p.tokens, kTileTokens);
  int64_t blocks = 0, begin = 0;
  for (const int64_t end : p.end) {
    blocks += ceil_div(end - begin, kTileColumns);
    begin = end;
  }
  if constexpr (sizeof(T) == 2) {
    const int64_t shared = tile_shared_bytes<T, 1>(kr, true) + own_u;
    if (tiles > kDecodeTiles && shared <= static_cast<int64_t>(kMaxShared))
      return launch(p.S ? lora_stacked_add_prefill<T, ALIGNED> : lora_expand_add_prefill<T, ALIGNED>,
                    prefill_grid(blocks, tiles), kTileThreads, shared, stream, p);
  }
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(smaller(tiles, kMaxGridY)));
  return launch(p.S ? lora_stacked_add_decode<T, ALIGNED> : lora_expand_add_decode<T, ALIGNED>, grid, kTileThreads,
                tile_shared_bytes<T, 1>(kr, false) + own_u, stream, p);
}

template <class T>
int launch_type(const ExpandAdd& p, void* stream) {
  bool aligned = rows_aligned16(p.y, p.ldy, sizeof(T)) && rows_aligned16(p.in, p.ld_in, sizeof(T)) && bank_aligned<T>(p.expand.bank[0]);
  for (const int64_t end : p.end) aligned = aligned && end % Pack<T>::n == 0;
  return aligned ? launch_tiles<T, true>(p, stream) : launch_tiles<T, false>(p, stream);
}

int launch_any(int64_t type, const ExpandAdd& p, void* stream) {
  if (p.tokens == 0 || p.end[kMaxGroups - 1] == 0 || p.expand.K == 0 || p.expand.r == 0)
    return static_cast<int>(cudaSuccess);
  if (type == kF32) return launch_type<float>(p, stream);
  return type == kBF16 ? launch_type<bf16>(p, stream) : launch_type<f16>(p, stream);
}

Expand expand_of(const void* u, const void* B, int64_t ldb, const void* codes, int64_t code_rows, const void* slots,
                 double scale, int64_t K, int64_t r) {
  const Bank bank{static_cast<const float*>(u), B, ldb};
  return Expand{{bank, bank}, static_cast<const float*>(codes), code_rows, static_cast<const int32_t*>(slots),
                static_cast<float>(scale), static_cast<int>(K), static_cast<int>(r)};
}

}  // namespace
}  // namespace cuda
}  // namespace dpg

extern "C" int dpg_cuda_lora_expand_add(int64_t type, void* y, int64_t ldy, const void* u, const void* B, int64_t ldb,
                                        const void* codes, int64_t code_rows, const void* slots, double scale,
                                        int64_t tokens, int64_t K, int64_t r, int64_t width, void* stream) {
  return dpg_cuda_lora_expand_into(type, y, ldy, y, ldy, u, B, ldb, codes, code_rows, slots, scale, tokens, K, r, width,
                                   stream);
}

int dpg_cuda_lora_expand_into(int64_t type, void* y, int64_t ldy, const void* in, int64_t ld_in, const void* u,
                              const void* B, int64_t ldb, const void* codes, int64_t code_rows, const void* slots,
                              double scale, int64_t tokens, int64_t K, int64_t r, int64_t width, void* stream) {
  using namespace dpg::cuda;
  ExpandAdd p{expand_of(u, B, ldb, codes, code_rows, slots, scale, K, r), y, ldy, in, ld_in, tokens, {}, nullptr, 0, nullptr};
  for (int64_t& end : p.end) end = width;
  return launch_any(type, p, stream);
}

extern "C" int dpg_cuda_lora_stacked_add(int64_t type, void* y, int64_t ldy, const void* S, int64_t lds, const void* B,
                                         int64_t ldb, const void* codes_a, const void* codes_b, int64_t code_rows,
                                         const void* slots, double scale, int64_t tokens, int64_t K, int64_t r,
                                         int64_t groups, int64_t width0, int64_t width1, int64_t width2, int64_t width3,
                                         int64_t width4, int64_t width5, int64_t width6, int64_t width7, void* stream) {
  using namespace dpg::cuda;
  if (groups > kMaxGroups) return static_cast<int>(cudaErrorInvalidValue);
  const int64_t widths[kMaxGroups] = {width0, width1, width2, width3, width4, width5, width6, width7};
  ExpandAdd p{expand_of(nullptr, B, ldb, codes_b, code_rows, slots, scale, K, r), y, ldy, y, ldy, tokens, {}, S, lds,
              static_cast<const float*>(codes_a)};
  int64_t end = 0;
  for (int g = 0; g < kMaxGroups; ++g) p.end[g] = end += widths[g];
  return launch_any(type, p, stream);
}
