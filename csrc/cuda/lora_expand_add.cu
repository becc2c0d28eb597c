// lora_expand_add: y[t] += delta[t], in place; tokens without a slot are not written.
#include "cuda/expand.cuh"

namespace dpg {
namespace cuda {
namespace {

struct ExpandAdd {
  Expand expand;
  void* y;
  int64_t ldy, tokens, width;
};

// A block has 128 columns and goes over tiles of 16 tokens; STAGED: it keeps the bank's columns in shared memory.
template <class T, bool ALIGNED, bool STAGED>
__device__ __forceinline__ void expand_add(const ExpandAdd& p) {
  TileShared& tile = *reinterpret_cast<TileShared*>(shared_memory());
  const int64_t column0 = static_cast<int64_t>(blockIdx.x) * kTileColumns;
  const int64_t column = column0 + Place<T>::column();
  if (STAGED)
    Delta<T>::template stage<ALIGNED>(p.expand.bank[0], p.expand.K * p.expand.r, column0, p.width, staged_columns<T, 1>(p.expand, 0));
  for (int64_t token0 = static_cast<int64_t>(blockIdx.y) * kTileTokens; token0 < p.tokens; token0 += static_cast<int64_t>(gridDim.y) * kTileTokens) {
    __syncthreads();
    int slot = -1;
    if (threadIdx.x < kTileTokens) {
      slot = slot_of(p.expand.slots, token0 + threadIdx.x, p.tokens, p.expand.code_rows);
      tile.slots[threadIdx.x] = slot;
    }
    if (!__syncthreads_or(slot >= 0)) continue;
    if (!STAGED) prefetch_banks<T, 1>(p.expand, column0, p.width);
    Delta<T> delta[1];
    expand_tile<T, 1, ALIGNED, STAGED>(p.expand, tile, token0, column0, p.width, delta);
#pragma unroll
    for (int i = 0; i < Place<T>::kRows; ++i) {
      const int row = Place<T>::row(i);
      if (tile.slots[row] < 0) continue;
      T* y = static_cast<T*>(p.y) + (token0 + row) * p.ldy + column;
      Pack<T> pack = load_pack<ALIGNED>(y, p.width - column);
#pragma unroll
      for (int c = 0; c < Place<T>::kColumns; ++c) pack.v[c] = rounded<T>(as_float(pack.v[c]) + delta[0].at(i, c));
      store_pack<ALIGNED>(y, pack, p.width - column);
    }
  }
}

template <class T, bool ALIGNED>
__global__ void __launch_bounds__(kTileThreads, 1) lora_expand_add_decode(const ExpandAdd p) {
  expand_add<T, ALIGNED, false>(p);
}
template <class T, bool ALIGNED>
__global__ void __launch_bounds__(kTileThreads, 1) lora_expand_add_prefill(const ExpandAdd p) {
  expand_add<T, ALIGNED, true>(p);
}

template <class T, bool ALIGNED>
int launch_tiles(const ExpandAdd& p, void* stream) {
  const int64_t kr = static_cast<int64_t>(p.expand.K) * p.expand.r;
  const int64_t tiles = ceil_div(p.tokens, kTileTokens), blocks = ceil_div(p.width, kTileColumns);
  if constexpr (sizeof(T) == 2) {
    const int64_t shared = tile_shared_bytes<T, 1>(kr, true);
    if (tiles > kDecodeTiles && shared <= static_cast<int64_t>(kMaxShared))
      return launch(lora_expand_add_prefill<T, ALIGNED>, prefill_grid(blocks, tiles), kTileThreads, shared, stream, p);
  }
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(smaller(tiles, kMaxGridY)));
  return launch(lora_expand_add_decode<T, ALIGNED>, grid, kTileThreads, tile_shared_bytes<T, 1>(kr, false), stream, p);
}

template <class T>
int launch_type(const ExpandAdd& p, void* stream) {
  const bool aligned = rows_aligned16(p.y, p.ldy, sizeof(T)) && bank_aligned<T>(p.expand.bank[0]) && p.width % Pack<T>::n == 0;
  return aligned ? launch_tiles<T, true>(p, stream) : launch_tiles<T, false>(p, stream);
}

}  // namespace
}  // namespace cuda
}  // namespace dpg

extern "C" int dpg_cuda_lora_expand_add(int64_t type, void* y, int64_t ldy, const void* u, const void* B, int64_t ldb,
                                        const void* codes, int64_t code_rows, const void* slots, double scale,
                                        int64_t tokens, int64_t K, int64_t r, int64_t width, void* stream) {
  using namespace dpg;
  using namespace dpg::cuda;
  if (tokens == 0 || width == 0 || K == 0 || r == 0) return static_cast<int>(cudaSuccess);
  const Bank bank{static_cast<const float*>(u), B, ldb};
  const Expand expand{{bank, bank}, static_cast<const float*>(codes), code_rows, static_cast<const int32_t*>(slots),
                      static_cast<float>(scale), static_cast<int>(K), static_cast<int>(r)};
  const ExpandAdd p{expand, y, ldy, tokens, width};
  if (type == kF32) return launch_type<float>(p, stream);
  return type == kBF16 ? launch_type<bf16>(p, stream) : launch_type<f16>(p, stream);
}
