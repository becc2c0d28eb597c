// lora_combine: lora_shrink's sum over the entries, of products that the base layer's own product has made.
#include "cuda/device.cuh"

namespace dpg {
namespace cuda {
namespace {

constexpr int kThreads = 128;

struct Combine {
  const void* S;
  int64_t lds;
  const float* codes;
  int64_t code_rows;
  const int32_t* slots;
  float* u;
  int64_t tokens, groups;
  int K, r;
};

// One thread per result, neighbours in j.
template <class T>
__global__ void __launch_bounds__(kThreads) lora_combine_decode(const Combine p) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t per_token = p.groups * p.r, token = i / per_token;
  if (token >= p.tokens) return;
  const int group = static_cast<int>(i % per_token / p.r), j = static_cast<int>(i % p.r);
  const int slot = slot_of(p.slots, token, p.tokens, p.code_rows);
  float value = 0.0f;
  if (slot >= 0) {
    const T* s = static_cast<const T*>(p.S) + token * p.lds + static_cast<int64_t>(group) * p.K * p.r + j;
    value = combine_entries(p.codes + static_cast<int64_t>(slot) * p.K, p.K, [&](int k) { return as_float(s[k * p.r]); });
  }
  p.u[(group * p.tokens + token) * p.r + j] = value;
}

}  // namespace
}  // namespace cuda
}  // namespace dpg

extern "C" int dpg_cuda_lora_combine(int64_t type, const void* S, int64_t lds, const void* codes, int64_t code_rows,
                                     const void* slots, void* u, int64_t tokens, int64_t groups, int64_t K, int64_t r,
                                     void* stream) {
  using namespace dpg;
  using namespace dpg::cuda;
  if (tokens == 0 || groups == 0 || r == 0) return static_cast<int>(cudaSuccess);
  const Combine p{S, lds, static_cast<const float*>(codes), code_rows, static_cast<const int32_t*>(slots),
                  static_cast<float*>(u), tokens, groups, static_cast<int>(K), static_cast<int>(r)};
  const dim3 grid(static_cast<unsigned>(ceil_div(tokens * groups * r, kThreads)));
  if (type == kF32) return launch(lora_combine_decode<float>, grid, kThreads, 0, stream, p);
  if (type == kBF16) return launch(lora_combine_decode<bf16>, grid, kThreads, 0, stream, p);
  return launch(lora_combine_decode<f16>, grid, kThreads, 0, stream, p);
}
