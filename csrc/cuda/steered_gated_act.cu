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
  int act;
  bool aligned;
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

// Where a lane's columns of the table are: pole p's additions at add + p * stride.
struct Poles {
  const float* add;
  int64_t stride;
  const int16_t* mask;
  int64_t left;  // columns that exist
  bool aligned;
};
__device__ __forceinline__ Poles poles_at(const Gated& p, int64_t column) {
  return Poles{p.steer.add + column, p.width, p.steer.clamp_mask + column, p.width - column, p.aligned};
}

// add[i] = the sum of the token's active poles for these columns, in pole order. AT_ONCE: poles whose values are on their way
// together; beyond the last one it is read again, times 0.
template <int AT_ONCE, int N>
__device__ __forceinline__ void sum_poles(const Poles& poles, const SteerRow& steer, float (&add)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) add[i] = 0.0f;
#pragma unroll 1
  for (int e0 = 0; e0 < steer.count; e0 += AT_ONCE) {
    Pack<float> values[AT_ONCE][N / 4];
#pragma unroll
    for (int e = 0; e < AT_ONCE; ++e) {
      const float* row = poles.add + steer.pole[e0 + e < steer.count ? e0 + e : steer.count - 1] * poles.stride;
#pragma unroll
      for (int part = 0; part < N / 4; ++part) values[e][part] = load_pack(poles.aligned, row + 4 * part, poles.left - 4 * part);
    }
#pragma unroll
    for (int e = 0; e < AT_ONCE; ++e) {
      const float strength = e0 + e < steer.count ? steer.strength[e0 + e] : 0.0f;
#pragma unroll
      for (int i = 0; i < N; ++i) add[i] = fmaf(strength, values[e][i / 4].v[i % 4], add[i]);
    }
  }
}

// Neighbouring columns of one token, of which the first exists: g and u hold gate and up as float32 values of T.
template <class T, int AT_ONCE>
__device__ __forceinline__ Pack<T> finish(int act, float (&g)[Pack<T>::n], const float (&u)[Pack<T>::n], const Poles& poles,
                                          const SteerRow& steer) {
  constexpr int n = Pack<T>::n;
  activate<T>(act, g);
  if (steer.count) {
    float add[n];
    sum_poles<AT_ONCE>(poles, steer, add);
    int16_t mask[n];
    if (poles.aligned) {
      if constexpr (n == 8) {
        const uint4 raw = load<uint4>(poles.mask);
        memcpy(mask, &raw, sizeof mask);
      } else {
        const uint2 raw = load<uint2>(poles.mask);
        memcpy(mask, &raw, sizeof mask);
      }
    } else {
#pragma unroll
      for (int i = 0; i < n; ++i) mask[i] = i < poles.left ? poles.mask[i] : static_cast<int16_t>(0);
    }
#pragma unroll
    for (int i = 0; i < n; ++i) g[i] = (mask[i] & steer.bits ? capped(g[i]) : g[i]) + add[i];
    round_all<T>(g);
  }
#pragma unroll
  for (int i = 0; i < n; ++i) g[i] *= u[i];
  return packed<T>(g);
}

// ---- without expands -------------------------------------------------------------------------------------------------

constexpr int kRowThreads = 128, kRowTokens = 16;

// A block: 16 bytes of columns per thread, `rows` tokens (at most kRowTokens).
template <class T>
__global__ void __launch_bounds__(kRowThreads) steered_gated_act(const Gated p, int rows) {
  SteerRow* steer = reinterpret_cast<SteerRow*>(shared_memory());
  const int64_t column = (static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x) * Pack<T>::n;
  const int64_t left = p.width - column;
  for (int64_t token0 = static_cast<int64_t>(blockIdx.y) * rows; token0 < p.tokens;
       token0 += static_cast<int64_t>(gridDim.y) * rows) {
    __syncthreads();
    if (threadIdx.x < static_cast<unsigned>(rows)) compact(p.steer, token0 + threadIdx.x, p.tokens, steer + threadIdx.x);
    __syncthreads();
    if (left <= 0) continue;
#pragma unroll 2
    for (int row = 0; row < rows; ++row) {
      const int64_t token = token0 + row;
      if (token >= p.tokens) break;
      float g[Pack<T>::n], u[Pack<T>::n];
      unpacked(load_pack(p.aligned, static_cast<const T*>(p.gate) + token * p.ldg + column, left), g);
      unpacked(load_pack(p.aligned, static_cast<const T*>(p.up) + token * p.ldu + column, left), u);
      store_pack(p.aligned, static_cast<T*>(p.h) + token * p.ldh + column, finish<T, 4>(p.act, g, u, poles_at(p, column), steer[row]), left);
    }
  }
}

// ---- with expands ----------------------------------------------------------------------------------------------------

using Few = Tiling<1, 2, 1>;   // 16 tokens by 64 columns
using Many = Tiling<4, 1, 2>;  // 64 tokens by 64 columns

// What a block keeps in shared memory, besides the banks: active poles of its tokens, its columns of the table, gate and up.
template <class Tile>
struct Kept {
  static constexpr int kStride = Tile::kColumns + 4;  // of the table's rows: neighbouring poles begin in other memory banks
  static constexpr int kPacks = 4 * Tile::kPerWarp;   // 16 bytes each, of a thread: gate, then up, of two tokens
  alignas(16) SteerRow steer[Tile::kThreads / 2];
  alignas(16) float add[kPoles * kStride];
  alignas(16) int16_t mask[Tile::kColumns];
  alignas(16) unsigned char packs[kPacks][Tile::kThreads][16];
};

template <class Tile>
__device__ __forceinline__ void fetch_table(const Gated& p, int64_t column0, Kept<Tile>& kept) {
  constexpr int kPieces = Tile::kColumns / 4;
  for (int i = threadIdx.x; i < kPoles * kPieces; i += Tile::kThreads) {
    const int pole = i / kPieces, at = i % kPieces * 4;
    fetch_pack(p.aligned, p.steer.add, pole * p.width + column0 + at, p.width - column0 - at,
               reinterpret_cast<unsigned char*>(kept.add + pole * Kept<Tile>::kStride + at));
  }
  for (int at = threadIdx.x * 8; at < Tile::kColumns; at += Tile::kThreads * 8)
    fetch_pack(p.aligned, p.steer.clamp_mask, column0 + at, p.width - column0 - at, reinterpret_cast<unsigned char*>(kept.mask + at));
}

// A block keeps its columns of both banks and of the table and goes over tiles of tokens; after these have come its warps do
// not wait for each other.
template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, kResidentThreads / Tile::kThreads) steered_gated_act_expand(const GatedExpand q) {
  constexpr int kGroups = Tile::kPerWarp;
  const Gated& p = q.gated;
  Kept<Tile>& kept = *reinterpret_cast<Kept<Tile>*>(shared_memory());
  unsigned char* staged = shared_memory() + sizeof(Kept<Tile>);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t column0 = static_cast<int64_t>(blockIdx.x) * Tile::kColumns;
  const int own = warp / Tile::kWarpM * kGroups * 32 + lane % 4 * 8;  // this lane's first column, from column0 on
  fetch_rows<T, Tile, 2>(q.expand, 0, column0, p.width, staged);
  if (p.steer.strengths) fetch_table<Tile>(p, column0, kept);
  bool first = true;
  for (int64_t block0 = static_cast<int64_t>(blockIdx.y) * Tile::kTokens; block0 < p.tokens;
       block0 += static_cast<int64_t>(gridDim.y) * Tile::kTokens) {
    const int64_t token0 = block0 + warp % Tile::kWarpM * 16, token = token0 + lane / 4;
    const Rows rows = rows_of_lane(q.expand, token0, p.tokens);
#pragma unroll
    for (int n = 0; n < Kept<Tile>::kPacks; ++n) {
      const int g = n / 2 % kGroups;
      const int64_t row = token + n % 2 * 8, column = column0 + own + 32 * g;
      const bool of_gate = n < 2 * kGroups;
      fetch_pack(p.aligned, static_cast<const T*>(of_gate ? p.gate : p.up), row * (of_gate ? p.ldg : p.ldu) + column,
                 row < p.tokens ? p.width - column : 0, kept.packs[n][threadIdx.x]);
    }
    SteerRow* steer = kept.steer + warp * 16;
    __syncwarp();
    if (lane < 16) compact(p.steer, token0 + lane, p.tokens, steer + lane);
    __syncwarp();
    Delta<T, kGroups> delta[2];
    const bool active = __any_sync(kFullWarp, rows.slot[0] >= 0 || rows.slot[1] >= 0);
    if (active) {
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        const float* u = q.expand.bank[b].u;
        const int64_t r = q.expand.r;
        delta[b].start(q.expand, rows, u + (rows.slot[0] >= 0 ? token * r : 0), u + (rows.slot[1] >= 0 ? (token + 8) * r : 0));
      }
    }
    sum_tile<T, Tile, 2>(q.expand, rows, active, first, column0, p.width, staged, delta);
    first = false;
    wait_copies();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (token + 8 * i >= p.tokens) continue;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        const int64_t column = column0 + own + 32 * g;
        if (column >= p.width) continue;
        float gates[8], ups[8];
        unpacked(own_pack<T>(kept.packs[2 * g + i][threadIdx.x]), gates);
        unpacked(own_pack<T>(kept.packs[2 * kGroups + 2 * g + i][threadIdx.x]), ups);
        if (rows.slot[i] >= 0) {  // without a slot not even -0 changes
          delta[0].add_to(gates, g, i);
          round_all<T>(gates);
          delta[1].add_to(ups, g, i);
          round_all<T>(ups);
        }
        const int at = own + 32 * g;
        const Poles poles{kept.add + at, Kept<Tile>::kStride, kept.mask + at, 8, true};
        store_pack(p.aligned, static_cast<T*>(p.h) + (token + 8 * i) * p.ldh + column,
                   finish<T, 1>(p.act, gates, ups, poles, steer[lane / 4 + 8 * i]), p.width - column);
      }
    }
  }
}

__global__ void __launch_bounds__(kFloatThreads) steered_gated_act_expand_f32(const GatedExpand q) {
  const Gated& p = q.gated;
  SteerRow* steer = reinterpret_cast<SteerRow*>(shared_memory());
  int* slots = reinterpret_cast<int*>(steer + kFloatTokens);
  float* coef = reinterpret_cast<float*>(slots + kFloatTokens);
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kFloatColumns + float_column(), left = p.width - column;
  for (int64_t token0 = static_cast<int64_t>(blockIdx.y) * kFloatTokens; token0 < p.tokens;
       token0 += static_cast<int64_t>(gridDim.y) * kFloatTokens) {
    __syncthreads();
    if (threadIdx.x < kFloatTokens) {
      slots[threadIdx.x] = slot_of(q.expand.slots, token0 + threadIdx.x, p.tokens, q.expand.code_rows);
      compact(p.steer, token0 + threadIdx.x, p.tokens, steer + threadIdx.x);
    }
    __syncthreads();
    float delta[2][4][4];
#pragma unroll
    for (int b = 0; b < 2; ++b)
      sum_float(q.expand, q.expand.bank[b], slots, q.expand.bank[b].u + token0 * q.expand.r, coef, column, p.width, delta[b]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = float_row(i);
      const int64_t token = token0 + row;
      if (token >= p.tokens || left <= 0) continue;
      float g[4], u[4];
      unpacked(load_pack(p.aligned, static_cast<const float*>(p.gate) + token * p.ldg + column, left), g);
      unpacked(load_pack(p.aligned, static_cast<const float*>(p.up) + token * p.ldu + column, left), u);
#pragma unroll
      for (int c = 0; c < 4; ++c)
        if (slots[row] >= 0) {
          g[c] += delta[0][i][c];
          u[c] += delta[1][i][c];
        }
      store_pack(p.aligned, static_cast<float*>(p.h) + token * p.ldh + column, finish<float, 4>(p.act, g, u, poles_at(p, column), steer[row]), left);
    }
  }
}

// ---- launch ----------------------------------------------------------------------------------------------------------

// Up to this many tokens each has blocks of its own, so that enough of them read gate and up.
constexpr int64_t kRowDecodeTokens = 64;

template <class T>
int launch_plain(const Gated& p, void* stream) {
  const unsigned blocks = static_cast<unsigned>(ceil_div(p.width, kRowThreads * Pack<T>::n));
  const int rows = p.tokens <= kRowDecodeTokens ? 1 : kRowTokens;
  const unsigned tiles = static_cast<unsigned>(smaller(ceil_div(p.tokens, rows), kMaxGridY));
  return launch(steered_gated_act<T>, dim3(blocks, tiles), kRowThreads, kRowTokens * sizeof(SteerRow), stream, p, rows);
}

template <class T, class Tile>
int launch_tiles(GatedExpand p, void* stream) {
  constexpr int64_t kResident = kResidentThreads / Tile::kThreads;
  const int64_t kept = sizeof(Kept<Tile>), per_row = 2 * Tile::kColumns * sizeof(T);
  p.expand.rows_at_once = static_cast<int>(rows_at_once(static_cast<int64_t>(p.expand.K) * p.expand.r, kept, per_row));
  const int64_t blocks = ceil_div(p.gated.width, Tile::kColumns), tiles = ceil_div(p.gated.tokens, Tile::kTokens);
  const int64_t rows = smaller(ceil_div(tiles, tiles_per_block(tiles, blocks, kResident)), kMaxGridY);
  return launch(steered_gated_act_expand<T, Tile>, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(rows)),
                Tile::kThreads, kept + p.expand.rows_at_once * per_row, stream, p);
}

template <class T>
int launch_type(GatedExpand p, void* stream) {
  Gated& g = p.gated;
  const bool lora = p.expand.K > 0;
  const bool steer_aligned = !g.steer.strengths || (aligned16(g.steer.clamp_mask) && aligned16(g.steer.add));
  g.aligned = rows_aligned16(g.gate, g.ldg, sizeof(T)) && rows_aligned16(g.up, g.ldu, sizeof(T)) &&
              rows_aligned16(g.h, g.ldh, sizeof(T)) && g.width % Pack<T>::n == 0 && steer_aligned;
  if (!lora) return launch_plain<T>(g, stream);
  p.expand.aligned = g.width % Pack<T>::n == 0 && bank_aligned(p.expand.bank[0], sizeof(T)) && bank_aligned(p.expand.bank[1], sizeof(T));
  if constexpr (sizeof(T) == 4) {
    const int64_t kr = static_cast<int64_t>(p.expand.K) * p.expand.r;
    const dim3 grid(static_cast<unsigned>(ceil_div(g.width, kFloatColumns)),
                    static_cast<unsigned>(smaller(ceil_div(g.tokens, kFloatTokens), kMaxGridY)));
    return launch(steered_gated_act_expand_f32, grid, kFloatThreads,
                  kFloatTokens * (sizeof(SteerRow) + sizeof(int)) + float_coefficient_bytes(kr), stream, p);
  } else {
    return g.tokens <= kFewTokens ? launch_tiles<T, Few>(p, stream) : launch_tiles<T, Many>(p, stream);
  }
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
  const Expand expand = expand_of({static_cast<const float*>(u_gate), B_gate, ldb_gate},
                                  {static_cast<const float*>(u_up), B_up, ldb_up}, codes, lora ? code_rows : 0, lora_slots,
                                  scale, lora ? K : 0, r);
  const GatedExpand p{{gate, up, h, ldg, ldu, ldh, tokens, width, steer, static_cast<int>(act), false}, expand};
  if (type == kF32) return launch_type<float>(p, stream);
  return type == kBF16 ? launch_type<bf16>(p, stream) : launch_type<f16>(p, stream);
}
