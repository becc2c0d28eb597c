// activation_stats: counts of positive activations and histograms of activations, per slot and neuron, added in place.
// Sums of integers: the order in which blocks arrive does not matter.
#include "cuda/device.cuh"

namespace dpg {
namespace cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kTokens = 32;  // tokens in a row of one thread

using Count = unsigned long long;  // the 64-bit type that atomicAdd takes

struct Stats {
  const void* gate;
  int64_t ldg;
  const int32_t* slots;
  const float* edges;
  int64_t bins;
  Count* positive;
  void* histogram;
  int64_t wide, rows, tokens, width;
  int act;
};

// What one thread has counted for one slot and neuron and not yet written: most values are positive or in the first bin.
struct Run {
  int64_t cell;  // slot * width + neuron; -1: nothing yet
  unsigned positive, first_bin;
};

__device__ __forceinline__ void count_bin(const Stats& p, int64_t cell, int64_t bin, unsigned n) {
  const int64_t at = cell * p.bins + bin;
  if (p.wide)
    atomicAdd(static_cast<Count*>(p.histogram) + at, static_cast<Count>(n));
  else
    atomicAdd(static_cast<unsigned*>(p.histogram) + at, n);
}

__device__ __forceinline__ void flush(const Stats& p, const Run& run) {
  if (run.positive) atomicAdd(p.positive + run.cell, static_cast<Count>(run.positive));
  if (run.first_bin) count_bin(p, run.cell, 0, run.first_bin);
}

// The bin b with edges[b-1] < v <= edges[b], of n + 1 bins: guessed from the spacing, put right by the edges themselves.
__device__ __forceinline__ int64_t bin_of(const float* edges, int64_t n, float first, float per_width, float v) {
  const float guess = ceilf((v - first) * per_width);
  int64_t b = guess < static_cast<float>(n) ? static_cast<int64_t>(guess) : n;
  if (b < 0) b = 0;
  while (b > 0 && !(edges[b - 1] < v)) --b;
  while (b < n && v > edges[b]) ++b;
  return b;
}

template <class T>
__global__ void __launch_bounds__(kThreads) activation_stats(const Stats p) {
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= p.width) return;
  const int64_t n = p.bins - 1;
  const float first = n > 0 ? p.edges[0] : 0.0f;
  const float per_width = n > 1 ? static_cast<float>(n - 1) / (p.edges[n - 1] - first) : 0.0f;
  Run run{-1, 0, 0};
  for (int64_t token0 = static_cast<int64_t>(blockIdx.y) * kTokens; token0 < p.tokens;
       token0 += static_cast<int64_t>(gridDim.y) * kTokens) {
#pragma unroll 4
    for (int i = 0; i < kTokens; ++i) {
      const int64_t token = token0 + i;
      const int slot = slot_of(p.slots, token, p.tokens, p.rows);
      if (slot < 0) continue;
      const int64_t cell = slot * p.width + column;
      if (cell != run.cell) {
        flush(p, run);
        run = Run{cell, 0, 0};
      }
      float value[1] = {as_float(static_cast<const T*>(p.gate)[token * p.ldg + column])};
      activate<T>(p.act, value);
      const float v = value[0];
      run.positive += v > 0.0f;
      if (n <= 0 || v <= first)
        run.first_bin += v == v;
      else if (v > first)
        count_bin(p, cell, bin_of(p.edges, n, first, per_width, v), 1);
    }
  }
  flush(p, run);
}

template <class T>
int launch_type(const Stats& p, void* stream) {
  const dim3 grid(static_cast<unsigned>(ceil_div(p.width, kThreads)),
                  static_cast<unsigned>(smaller(ceil_div(p.tokens, kTokens), kMaxGridY)));
  return launch(activation_stats<T>, grid, kThreads, 0, stream, p);
}

}  // namespace
}  // namespace cuda
}  // namespace dpg

extern "C" int dpg_cuda_activation_stats(int64_t type, int64_t act, const void* gate, int64_t ldg, const void* slots,
                                         const void* edges, int64_t bins, void* positive, void* histogram, int64_t wide,
                                         int64_t rows, int64_t tokens, int64_t width, void* stream) {
  using namespace dpg;
  using namespace dpg::cuda;
  if (tokens == 0 || width == 0 || rows == 0 || bins == 0) return static_cast<int>(cudaSuccess);
  const Stats p{gate, ldg, static_cast<const int32_t*>(slots), static_cast<const float*>(edges), bins,
                static_cast<Count*>(positive), histogram, wide, rows, tokens, width, static_cast<int>(act)};
  if (type == kF32) return launch_type<float>(p, stream);
  return type == kBF16 ? launch_type<bf16>(p, stream) : launch_type<f16>(p, stream);
}
