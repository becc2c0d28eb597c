// add_rmsnorm: h = residual + y (with its expand), out = RMSNorm of h. A row's sum of squares needs all of its columns, an
// expand the blocks of all columns: so where one rides along it is a launch of its own, into h.
#include "cuda/device.cuh"

namespace dpg {
namespace cuda {
namespace {

constexpr int kThreads = 256;  // always as many: the order of a row's sum follows from the width alone

struct Norm {
  const void *y, *residual, *weight;
  int64_t ldy, ld_residual, tokens, width;
  const int32_t* slots;  // null: no token has one
  int64_t code_rows;
  void *h, *out;
  float eps;
  bool unit_offset;
};

// One block per row: 16 bytes of columns per thread at a time.
template <class T>
__global__ void __launch_bounds__(kThreads, 1) add_rmsnorm(const Norm p, bool aligned) {
  constexpr int n = Pack<T>::n;
  const int64_t row = blockIdx.x;
  T* h = static_cast<T*>(p.h) + row * p.width;
  const bool expanded = slot_of(p.slots, row, p.tokens, p.code_rows) >= 0;
  const T* y = expanded ? h : static_cast<const T*>(p.y) + row * p.ldy;
  const T* residual = static_cast<const T*>(p.residual) + row * p.ld_residual;
  float squares = 0.0f;
  for (int64_t c = threadIdx.x * n; c < p.width; c += kThreads * n) {
    const Pack<T> a = load_pack(aligned, residual + c, p.width - c), b = load_pack(aligned, y + c, p.width - c);
    Pack<T> sum;
    float part = 0.0f;
#pragma unroll
    for (int i = 0; i < n; ++i) {
      sum.v[i] = rounded<T>(as_float(a.v[i]) + as_float(b.v[i]));
      const float v = c + i < p.width ? as_float(sum.v[i]) : 0.0f;
      part = fmaf(v, v, part);
    }
    squares += part;
    store_pack(aligned, h + c, sum, p.width - c);
  }
#pragma unroll
  for (int mask = 16; mask; mask /= 2) squares += __shfl_xor_sync(kFullWarp, squares, mask);
  float* of_warp = reinterpret_cast<float*>(shared_memory());
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = squares;
  __syncthreads();
  float total = 0.0f;
#pragma unroll
  for (int warp = 0; warp < kThreads / 32; ++warp) total += of_warp[warp];
  const float scale = 1.0f / sqrtf(total / static_cast<float>(p.width) + p.eps);
  for (int64_t c = threadIdx.x * n; c < p.width; c += kThreads * n) {  // a thread reads what it has written itself
    const Pack<T> v = load_pack(aligned, h + c, p.width - c);
    const Pack<T> w = load_pack(aligned, static_cast<const T*>(p.weight) + c, p.width - c);
    Pack<T> out;
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const float normed = as_float(v.v[i]) * scale, factor = as_float(w.v[i]);
      out.v[i] = rounded<T>(p.unit_offset ? normed * (1.0f + factor) : through<T>(normed) * factor);
    }
    store_pack(aligned, static_cast<T*>(p.out) + row * p.width + c, out, p.width - c);
  }
}

template <class T>
int launch_type(const Norm& p, void* stream) {
  const bool aligned = p.width % Pack<T>::n == 0 && rows_aligned16(p.y, p.ldy, sizeof(T)) &&
                       rows_aligned16(p.residual, p.ld_residual, sizeof(T)) && aligned16(p.weight) && aligned16(p.h) &&
                       aligned16(p.out);
  return launch(add_rmsnorm<T>, dim3(static_cast<unsigned>(p.tokens)), kThreads, kThreads / 32 * sizeof(float), stream, p,
                aligned);
}

}  // namespace
}  // namespace cuda
}  // namespace dpg

extern "C" int dpg_cuda_add_rmsnorm(int64_t type, const void* y, int64_t ldy, const void* residual, int64_t ld_residual,
                                    const void* weight, double eps, int64_t unit_offset, void* h, void* out,
                                    int64_t tokens, int64_t width, const void* u, const void* B, int64_t ldb,
                                    const void* codes, int64_t code_rows, const void* slots, double scale, int64_t K,
                                    int64_t r, void* stream) {
  using namespace dpg;
  using namespace dpg::cuda;
  if (tokens == 0 || width == 0) return static_cast<int>(cudaSuccess);
  const bool lora = u != nullptr && K > 0 && r > 0;
  if (lora) {
    const int error = dpg_cuda_lora_expand_into(type, h, width, y, ldy, u, B, ldb, codes, code_rows, slots, scale,
                                                tokens, K, r, width, stream);
    if (error != 0) return error;
  }
  const Norm p{y, residual, weight, ldy, ld_residual, tokens, width,
               lora ? static_cast<const int32_t*>(slots) : nullptr, code_rows, h, out, static_cast<float>(eps),
               unit_offset != 0};
  if (type == kF32) return launch_type<float>(p, stream);
  return type == kBF16 ? launch_type<bf16>(p, stream) : launch_type<f16>(p, stream);
}
