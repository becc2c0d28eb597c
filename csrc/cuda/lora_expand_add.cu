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
  int64_t end[kMaxGroups];      // first column after each group; groups that do not exist have none
  unsigned blocks[kMaxGroups];  // the same in blocks of columns
  const void* S;                // null: u is given
  int64_t lds;
  const float* codes_a;
  bool aligned;  // y and in
  bool pairs;    // two neighbours in S lie on four bytes
};

// The group, first column and end of the group for this block: blocks never cross groups.
struct Columns {
  int64_t group, column0, end;
};
__device__ __forceinline__ Columns columns_of_block(const ExpandAdd& p, int width) {
  int g = 0;
  while (blockIdx.x >= p.blocks[g]) ++g;
  const int64_t begin = g ? p.end[g - 1] : 0, block = blockIdx.x - (g ? p.blocks[g - 1] : 0);
  return Columns{g, begin + block * width, p.end[g]};
}

// u [16, r] of a tile's tokens from S, by `threads` threads of which this is number `thread`.
template <class T>
__device__ __forceinline__ void combine_tile(const ExpandAdd& p, int64_t group, int64_t token0, int thread, int threads,
                                             float* u) {
  const int K = p.expand.K, r = p.expand.r, step = p.pairs ? 2 : 1;
  for (int i = thread * step; i < 16 * r; i += threads * step) {
    const int t = p.expand.by_rank.of(i), j = i - t * r;
    const int slot = slot_of(p.expand.slots, token0 + t, p.tokens, p.expand.code_rows);
    const T* s = static_cast<const T*>(p.S) + (slot < 0 ? 0 : token0 + t) * p.lds + group * K * r + j;
    const float* code = p.codes_a + static_cast<int64_t>(slot < 0 ? 0 : slot) * K;
    if constexpr (sizeof(T) == 2) {
      if (p.pairs) {
        const float2 both = combine_pairs(code, K, [&](int k) {
          const uint32_t two = load<uint32_t>(s + k * r);
          return make_float2(low_of<T>(two), high_of<T>(two));
        });
        store(u + i, both);
        continue;
      }
    }
    u[i] = combine_entries(code, K, [&](int k) { return as_float(s[k * r]); });
  }
}

using Few = Tiling<1, 2, 1>;   // 16 tokens by 64 columns
using Many = Tiling<4, 1, 4>;  // 64 tokens by 128 columns

template <class Tile>
constexpr int64_t kPackBytes = 2 * Tile::kPerWarp * Tile::kThreads * 16;

// A block keeps its columns of the bank and goes over tiles of tokens; after the bank has come its warps do not wait for
// each other. STACKED: each warp makes the u of its tokens from S, in shared memory.
template <class T, class Tile, bool STACKED>
__global__ void __launch_bounds__(Tile::kThreads, kResidentThreads / Tile::kThreads) expand_add(const ExpandAdd p) {
  constexpr int kGroups = Tile::kPerWarp;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, r = p.expand.r;
  const Columns at = columns_of_block(p, Tile::kColumns);
  const int64_t own = at.column0 + warp / Tile::kWarpM * kGroups * 32 + lane % 4 * 8;
  float* own_u = reinterpret_cast<float*>(shared_memory() + kPackBytes<Tile>) + warp * 16 * r;
  // y's packs of each thread, then what the warps keep of u, then the bank.
  unsigned char* packs = shared_memory() + threadIdx.x * 16;
  unsigned char* staged = shared_memory() + kPackBytes<Tile> + (STACKED ? Tile::kThreads / 2 * r * sizeof(float) : 0);
  fetch_rows<T, Tile, 1>(p.expand, 0, at.column0, at.end, staged);
  bool first = true;
  for (int64_t block0 = static_cast<int64_t>(blockIdx.y) * Tile::kTokens; block0 < p.tokens;
       block0 += static_cast<int64_t>(gridDim.y) * Tile::kTokens) {
    const int64_t token0 = block0 + warp % Tile::kWarpM * 16, token = token0 + lane / 4;
    const Rows rows = rows_of_lane(p.expand, token0, p.tokens);
#pragma unroll
    for (int n = 0; n < 2 * kGroups; ++n) {
      const int64_t column = own + n / 2 * 32;
      fetch_pack(p.aligned, static_cast<const T*>(p.in), (token + n % 2 * 8) * p.ld_in + column,
                 rows.slot[n % 2] < 0 ? 0 : at.end - column, packs + n * Tile::kThreads * 16);
    }
    Delta<T, kGroups> delta[1];
    const bool active = __any_sync(kFullWarp, rows.slot[0] >= 0 || rows.slot[1] >= 0);
    if (active) {
      const float* u[2];
      if (STACKED) {
        __syncwarp();
        combine_tile<T>(p, at.group, token0, lane, 32, own_u);
        __syncwarp();
        u[0] = own_u + lane / 4 * r;
        u[1] = u[0] + 8 * r;
      } else {
#pragma unroll
        for (int i = 0; i < 2; ++i) u[i] = p.expand.bank[0].u + (rows.slot[i] >= 0 ? (token + 8 * i) * r : 0);
      }
      delta[0].start(p.expand, rows, u[0], u[1]);
    }
    sum_tile<T, Tile, 1>(p.expand, rows, active, first, at.column0, at.end, staged, delta);
    first = false;
    wait_copies();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (rows.slot[i] < 0) continue;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        float v[8];
        unpacked(own_pack<T>(packs + (2 * g + i) * Tile::kThreads * 16), v);
        delta[0].add_to(v, g, i);
        store_pack(p.aligned, static_cast<T*>(p.y) + (token + 8 * i) * p.ldy + own + 32 * g, packed<T>(v),
                   at.end - own - 32 * g);
      }
    }
  }
}

__global__ void __launch_bounds__(kFloatThreads) expand_add_f32(const ExpandAdd p) {
  int* slots = reinterpret_cast<int*>(shared_memory());
  float* coef = reinterpret_cast<float*>(slots + kFloatTokens);
  float* own_u = coef + float_coefficient_bytes(p.expand.K * p.expand.r) / sizeof(float);
  const Columns at = columns_of_block(p, kFloatColumns);
  const int64_t column = at.column0 + float_column(), left = at.end - column;
  for (int64_t token0 = static_cast<int64_t>(blockIdx.y) * kFloatTokens; token0 < p.tokens;
       token0 += static_cast<int64_t>(gridDim.y) * kFloatTokens) {
    __syncthreads();
    int slot = -1;
    if (threadIdx.x < kFloatTokens) {
      slot = slot_of(p.expand.slots, token0 + threadIdx.x, p.tokens, p.expand.code_rows);
      slots[threadIdx.x] = slot;
    }
    if (!__syncthreads_or(slot >= 0)) continue;
    if (p.S) combine_tile<float>(p, at.group, token0, threadIdx.x, kFloatThreads, own_u);
    float delta[4][4];
    sum_float(p.expand, p.expand.bank[0], slots, p.S ? own_u : p.expand.bank[0].u + token0 * p.expand.r, coef, column,
              at.end, delta);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = float_row(i);
      if (slots[row] < 0) continue;
      Pack<float> y = load_pack(p.aligned, static_cast<const float*>(p.in) + (token0 + row) * p.ld_in + column, left);
#pragma unroll
      for (int c = 0; c < 4; ++c) y.v[c] += delta[i][c];
      store_pack(p.aligned, static_cast<float*>(p.y) + (token0 + row) * p.ldy + column, y, left);
    }
  }
}

// Sets the blocks of columns of each group; their number.
int64_t cut_columns(ExpandAdd& p, int64_t columns) {
  int64_t blocks = 0, begin = 0;
  for (int g = 0; g < kMaxGroups; ++g) {
    blocks += ceil_div(p.end[g] - begin, columns);
    begin = p.end[g];
    p.blocks[g] = static_cast<unsigned>(blocks);
  }
  return blocks;
}

template <class T, class Tile>
int launch_tiles(ExpandAdd p, void* stream) {
  const int64_t own_u = p.S ? Tile::kThreads / 2 * p.expand.r * static_cast<int64_t>(sizeof(float)) : 0;
  const int64_t fixed = kPackBytes<Tile> + own_u;
  const int64_t per_row = Tile::kColumns * sizeof(T);
  p.expand.rows_at_once = static_cast<int>(rows_at_once(static_cast<int64_t>(p.expand.K) * p.expand.r, fixed, per_row));
  if (p.expand.rows_at_once == 0) return static_cast<int>(cudaErrorInvalidValue);
  const int64_t blocks = cut_columns(p, Tile::kColumns), tiles = ceil_div(p.tokens, Tile::kTokens);
  const int64_t rows = smaller(ceil_div(tiles, tiles_per_block(tiles, blocks, kResidentThreads / Tile::kThreads)), kMaxGridY);
  return launch(p.S ? expand_add<T, Tile, true> : expand_add<T, Tile, false>,
                dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(rows)), Tile::kThreads,
                fixed + p.expand.rows_at_once * per_row, stream, p);
}

template <class T>
int launch_type(ExpandAdd p, void* stream) {
  bool whole = true;
  for (const int64_t end : p.end) whole = whole && end % Pack<T>::n == 0;
  p.aligned = whole && rows_aligned16(p.y, p.ldy, sizeof(T)) && rows_aligned16(p.in, p.ld_in, sizeof(T));
  p.expand.aligned = whole && bank_aligned(p.expand.bank[0], sizeof(T));
  p.pairs = sizeof(T) == 2 && p.expand.r % 2 == 0 && p.lds % 2 == 0 && reinterpret_cast<uintptr_t>(p.S) % 4 == 0;
  if constexpr (sizeof(T) == 4) {
    const int64_t kr = static_cast<int64_t>(p.expand.K) * p.expand.r;
    const int64_t own_u = p.S ? kFloatTokens * p.expand.r * static_cast<int64_t>(sizeof(float)) : 0;
    const dim3 grid(static_cast<unsigned>(cut_columns(p, kFloatColumns)),
                    static_cast<unsigned>(smaller(ceil_div(p.tokens, kFloatTokens), kMaxGridY)));
    return launch(expand_add_f32, grid, kFloatThreads, kFloatTokens * sizeof(int) + float_coefficient_bytes(kr) + own_u,
                  stream, p);
  } else {
    // A rank so high that the u of 64 tokens leaves no room for a bank goes by 16 tokens.
    const bool few = p.tokens <= kFewTokens || (p.S && 64 * p.expand.r * static_cast<int64_t>(sizeof(float)) > machine().shared / 2);
    return few ? launch_tiles<T, Few>(p, stream) : launch_tiles<T, Many>(p, stream);
  }
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
  return expand_of(bank, bank, codes, code_rows, slots, scale, K, r);
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
  ExpandAdd p{expand_of(u, B, ldb, codes, code_rows, slots, scale, K, r), y, ldy, in, ld_in, tokens, {}, {}, nullptr, 0, nullptr, false, false};
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
  ExpandAdd p{expand_of(nullptr, B, ldb, codes_b, code_rows, slots, scale, K, r), y, ldy, y, ldy, tokens, {}, {}, S, lds,
              static_cast<const float*>(codes_a), false, false};
  int64_t end = 0;
  for (int g = 0; g < kMaxGroups; ++g) p.end[g] = end += widths[g];
  return launch_any(type, p, stream);
}
