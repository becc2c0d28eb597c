// steered_gated_act: h = steer(act(gate [+ expand])) * (up [+ expand]), every intermediate rounded to the dtype of gate.
#include "cuda/expand.cuh"

namespace dpg {
namespace cuda {
namespace {

struct Steer {
  const int16_t* clamp_mask;
  const float* add;
  const float* strengths;  // null: no steering
  int64_t rows;
  const int32_t* slots;
};
struct Gated {
  const void *gate, *up;
  void* h;
  int64_t ldg, ldu, ldh, tokens, width;
  Steer steer;
};
struct GatedExpand {
  Gated gated;
  Expand expand;
};

// The active poles of one token, in pole order.
__device__ __forceinline__ void compact(const Steer& p, int64_t token, int64_t tokens, SteerRow* row) {
  const int slot = p.strengths ? slot_of(p.slots, token, tokens, p.rows) : -1;
  float strength[kPoles];
#pragma unroll
  for (int i = 0; i < kPoles; ++i) strength[i] = slot >= 0 ? p.strengths[static_cast<int64_t>(slot) * kPoles + i] : 0.0f;
  int count = 0, bits = 0;
#pragma unroll
  for (int i = 0; i < kPoles; ++i)
    if (strength[i] > 0.0f) {
      row->pole[count] = i;
      row->strength[count] = strength[i];
      bits |= 1 << i;
      ++count;
    }
  row->bits = bits;
  row->count = count;
}

// min(v, 0) that keeps a NaN, as torch.clamp does.
__device__ __forceinline__ float capped(float v) { return v > 0.0f ? 0.0f : v; }

// Neighbouring columns of one token: g and u hold gate and up as float32 values of T.
template <class T, int ACT, bool ALIGNED>
__device__ __forceinline__ Pack<T> finish(const Gated& p, const float (&g)[Pack<T>::n], const float (&u)[Pack<T>::n],
                                          int64_t column, const SteerRow& steer) {
  constexpr int n = Pack<T>::n;
  Pack<T> out;
  float v[n];
#pragma unroll
  for (int i = 0; i < n; ++i) v[i] = through<T>(activated<T, ACT>(g[i]));
  if (steer.count) {
    const int64_t left = p.width - column;
    float add[n];
#pragma unroll
    for (int i = 0; i < n; ++i) add[i] = 0.0f;
    constexpr int kAtOnce = 4;  // poles whose values are on their way together; beyond the last one it is read again
    for (int e0 = 0; e0 < steer.count; e0 += kAtOnce) {
      Pack<float> values[kAtOnce][n / 4];
#pragma unroll
      for (int e = 0; e < kAtOnce; ++e) {
        const int pole = steer.pole[e0 + e < steer.count ? e0 + e : steer.count - 1];
#pragma unroll
        for (int part = 0; part < n / 4; ++part)
          values[e][part] = load_columns<ALIGNED, false>(p.steer.add + pole * p.width, column + 4 * part, p.width);
      }
#pragma unroll
      for (int e = 0; e < kAtOnce; ++e) {
        const bool there = e0 + e < steer.count;
        const float strength = there ? steer.strength[e0 + e] : 0.0f;
#pragma unroll
        for (int i = 0; i < n; ++i) {
          const float more = fmaf(strength, values[e][i / 4].v[i % 4], add[i]);
          add[i] = there ? more : add[i];
        }
      }
    }
    int16_t mask[n];
    if (ALIGNED) {
      memset(mask, 0, sizeof mask);
      if (left > 0) {
        if constexpr (n == 8) {
          const uint4 raw = load_constant<uint4>(p.steer.clamp_mask + column);
          memcpy(mask, &raw, sizeof mask);
        } else {
          const uint2 raw = load_constant<uint2>(p.steer.clamp_mask + column);
          memcpy(mask, &raw, sizeof mask);
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < n; ++i) mask[i] = i < left ? p.steer.clamp_mask[column + i] : static_cast<int16_t>(0);
    }
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const float w = mask[i] & steer.bits ? capped(v[i]) : v[i];
      v[i] = through<T>(w + add[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < n; ++i) out.v[i] = rounded<T>(v[i] * u[i]);
  return out;
}

// ---- without expands -------------------------------------------------------------------------------------------------

// A block: 16 bytes of columns per thread, `rows` tokens (at most kTileTokens).
template <class T, int ACT, bool ALIGNED>
__device__ __forceinline__ void gated_rows(const Gated& p, int rows) {
  SteerRow* steer = reinterpret_cast<SteerRow*>(shared_memory());
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kTileThreads + threadIdx.x) * Pack<T>::n;
  const int64_t left = p.width - column;
  for (int64_t token0 = static_cast<int64_t>(blockIdx.y) * rows; token0 < p.tokens;
       token0 += static_cast<int64_t>(gridDim.y) * rows) {
    __syncthreads();
    if (threadIdx.x < rows) compact(p.steer, token0 + threadIdx.x, p.tokens, steer + threadIdx.x);
    __syncthreads();
    if (left <= 0) continue;
#pragma unroll 2
    for (int row = 0; row < rows; ++row) {
      const int64_t token = token0 + row;
      if (token >= p.tokens) break;
      const Pack<T> gate = load_pack<ALIGNED>(static_cast<const T*>(p.gate) + token * p.ldg + column, left);
      const Pack<T> up = load_pack<ALIGNED>(static_cast<const T*>(p.up) + token * p.ldu + column, left);
      float g[Pack<T>::n], u[Pack<T>::n];
#pragma unroll
      for (int i = 0; i < Pack<T>::n; ++i) {
        g[i] = as_float(gate.v[i]);
        u[i] = as_float(up.v[i]);
      }
      store_pack<ALIGNED>(static_cast<T*>(p.h) + token * p.ldh + column,
                          finish<T, ACT, ALIGNED>(p, g, u, column, steer[row]), left);
    }
  }
}

template <class T, int ACT, bool ALIGNED>
__global__ void __launch_bounds__(kTileThreads, 1) steered_gated_act_decode(const Gated p) {
  gated_rows<T, ACT, ALIGNED>(p, 1);
}
template <class T, int ACT, bool ALIGNED>
__global__ void __launch_bounds__(kTileThreads, 1) steered_gated_act_prefill(const Gated p) {
  gated_rows<T, ACT, ALIGNED>(p, kTileTokens);
}

// ---- with expands ----------------------------------------------------------------------------------------------------

// A block has 128 columns and goes over tiles of 16 tokens; STAGED: it keeps both banks' columns in shared memory.
template <class T, int ACT, bool ALIGNED, bool STAGED>
__device__ __forceinline__ void gated_expand(const GatedExpand& q) {
  const Gated& p = q.gated;
  TileShared& tile = *reinterpret_cast<TileShared*>(shared_memory());
  const int64_t column0 = static_cast<int64_t>(blockIdx.x) * kTileColumns;
  const int64_t column = column0 + Place<T>::column();
  const int64_t left = p.width - column;
  if (STAGED) {
#pragma unroll
    for (int b = 0; b < 2; ++b)
      Delta<T>::template stage<ALIGNED>(q.expand.bank[b], q.expand.K * q.expand.r, column0, p.width,
                                        staged_columns<T, 2>(q.expand, b));
  }
  for (int64_t token0 = static_cast<int64_t>(blockIdx.y) * kTileTokens; token0 < p.tokens;
       token0 += static_cast<int64_t>(gridDim.y) * kTileTokens) {
    __syncthreads();
    int slot = -1;
    if (threadIdx.x < kTileTokens) {
      slot = slot_of(q.expand.slots, token0 + threadIdx.x, p.tokens, q.expand.code_rows);
      tile.slots[threadIdx.x] = slot;
    } else if (threadIdx.x >= 32 && threadIdx.x < 32 + kTileTokens) {
      compact(p.steer, token0 + threadIdx.x - 32, p.tokens, tile.steer + threadIdx.x - 32);
    }
    Pack<T> gate[Place<T>::kRows], up[Place<T>::kRows];
#pragma unroll
    for (int i = 0; i < Place<T>::kRows; ++i) {
      gate[i] = load_columns<ALIGNED, false>(row_of_tile<T>(p.gate, p.ldg, token0, i, p.tokens), column, p.width);
      up[i] = load_columns<ALIGNED, false>(row_of_tile<T>(p.up, p.ldu, token0, i, p.tokens), column, p.width);
    }
    Delta<T> delta[2];
    if (__syncthreads_or(slot >= 0)) {
      if (!STAGED) prefetch_banks<T, 2>(q.expand, column0, p.width);
      const float* const u[2] = {q.expand.bank[0].u + token0 * q.expand.r, q.expand.bank[1].u + token0 * q.expand.r};
      expand_tile<T, 2, ALIGNED, STAGED>(q.expand, tile, u, column0, p.width, delta);
    } else {
      delta[0].clear();
      delta[1].clear();
    }
#pragma unroll
    for (int i = 0; i < Place<T>::kRows; ++i) {
      const int row = Place<T>::row(i);
      const int64_t token = token0 + row;
      if (token >= p.tokens || left <= 0) continue;
      const bool expanded = tile.slots[row] >= 0;
      float g[Pack<T>::n], u[Pack<T>::n];
#pragma unroll
      for (int c = 0; c < Pack<T>::n; ++c) {
        g[c] = as_float(gate[i].v[c]);
        u[c] = as_float(up[i].v[c]);
        if (expanded) {  // without a slot not even -0 changes
          g[c] = through<T>(g[c] + delta[0].at(i, c));
          u[c] = through<T>(u[c] + delta[1].at(i, c));
        }
      }
      store_pack<ALIGNED>(static_cast<T*>(p.h) + token * p.ldh + column,
                          finish<T, ACT, ALIGNED>(p, g, u, column, tile.steer[row]), left);
    }
  }
}

template <class T, int ACT, bool ALIGNED>
__global__ void __launch_bounds__(kTileThreads, 1) steered_gated_act_expand_decode(const GatedExpand p) {
  gated_expand<T, ACT, ALIGNED, false>(p);
}
template <class T, int ACT, bool ALIGNED>
__global__ void __launch_bounds__(kTileThreads, 1) steered_gated_act_expand_prefill(const GatedExpand p) {
  gated_expand<T, ACT, ALIGNED, true>(p);
}

// ---- launch ----------------------------------------------------------------------------------------------------------

constexpr int64_t kDecodeTokens = 64;

template <class T, int ACT, bool ALIGNED>
int launch_plain(const Gated& p, void* stream) {
  const unsigned blocks = static_cast<unsigned>(ceil_div(p.width, kTileThreads * Pack<T>::n));
  const size_t shared = kTileTokens * sizeof(SteerRow);
  if (p.tokens <= kDecodeTokens)
    return launch(steered_gated_act_decode<T, ACT, ALIGNED>, dim3(blocks, static_cast<unsigned>(p.tokens)), kTileThreads,
                  shared, stream, p);
  const int64_t tiles = smaller(ceil_div(p.tokens, kTileTokens), kMaxGridY);
  return launch(steered_gated_act_prefill<T, ACT, ALIGNED>, dim3(blocks, static_cast<unsigned>(tiles)), kTileThreads,
                shared, stream, p);
}

template <class T, int ACT, bool ALIGNED>
int launch_expand(const GatedExpand& p, void* stream) {
  const int64_t kr = static_cast<int64_t>(p.expand.K) * p.expand.r;
  const int64_t tiles = ceil_div(p.gated.tokens, kTileTokens), blocks = ceil_div(p.gated.width, kTileColumns);
  if constexpr (sizeof(T) == 2) {
    const int64_t shared = tile_shared_bytes<T, 2>(kr, true);
    if (tiles > kDecodeTiles && shared <= static_cast<int64_t>(kMaxShared))
      return launch(steered_gated_act_expand_prefill<T, ACT, ALIGNED>, prefill_grid(blocks, tiles), kTileThreads, shared,
                    stream, p);
  }
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(smaller(tiles, kMaxGridY)));
  return launch(steered_gated_act_expand_decode<T, ACT, ALIGNED>, grid, kTileThreads, tile_shared_bytes<T, 2>(kr, false),
                stream, p);
}

template <class T, int ACT>
int launch_act(const GatedExpand& p, void* stream) {
  const Gated& g = p.gated;
  const bool lora = p.expand.K > 0;
  const bool steer_aligned = !g.steer.strengths || (aligned16(g.steer.clamp_mask) && aligned16(g.steer.add));
  const bool aligned = rows_aligned16(g.gate, g.ldg, sizeof(T)) && rows_aligned16(g.up, g.ldu, sizeof(T)) &&
                       rows_aligned16(g.h, g.ldh, sizeof(T)) && g.width % Pack<T>::n == 0 && steer_aligned &&
                       (!lora || (bank_aligned<T>(p.expand.bank[0]) && bank_aligned<T>(p.expand.bank[1])));
  if (lora) return aligned ? launch_expand<T, ACT, true>(p, stream) : launch_expand<T, ACT, false>(p, stream);
  return aligned ? launch_plain<T, ACT, true>(g, stream) : launch_plain<T, ACT, false>(g, stream);
}

template <class T>
int launch_type(int64_t act, const GatedExpand& p, void* stream) {
  if (act == kSilu) return launch_act<T, kSilu>(p, stream);
  if (act == kGeluTanh) return launch_act<T, kGeluTanh>(p, stream);
  return launch_act<T, kGelu>(p, stream);
}

}  // namespace
}  // namespace cuda
}  // namespace dpg

extern "C" int dpg_cuda_steered_gated_act(int64_t type, int64_t act, const void* gate, int64_t ldg, const void* up,
                                          int64_t ldu, void* h, int64_t ldh, int64_t tokens, int64_t width,
                                          const void* u_gate, const void* B_gate, int64_t ldb_gate, const void* u_up,
                                          const void* B_up, int64_t ldb_up, const void* codes, int64_t code_rows,
                                          const void* lora_slots, double scale, int64_t K, int64_t r,
                                          const void* clamp_mask, const void* add, const void* strengths,
                                          int64_t strength_rows, const void* steer_slots, void* stream) {
  using namespace dpg;
  using namespace dpg::cuda;
  if (tokens == 0 || width == 0) return static_cast<int>(cudaSuccess);
  const Steer steer{static_cast<const int16_t*>(clamp_mask), static_cast<const float*>(add),
                    static_cast<const float*>(strengths), strength_rows, static_cast<const int32_t*>(steer_slots)};
  const bool lora = u_gate != nullptr && K > 0 && r > 0;
  const Expand expand{{{static_cast<const float*>(u_gate), B_gate, ldb_gate}, {static_cast<const float*>(u_up), B_up, ldb_up}},
                      static_cast<const float*>(codes), code_rows, static_cast<const int32_t*>(lora_slots),
                      static_cast<float>(scale), lora ? static_cast<int>(K) : 0, static_cast<int>(r)};
  const GatedExpand p{{gate, up, h, ldg, ldu, ldh, tokens, width, steer}, expand};
  if (type == kF32) return launch_type<float>(act, p, stream);
  return type == kBF16 ? launch_type<bf16>(act, p, stream) : launch_type<f16>(act, p, stream);
}
