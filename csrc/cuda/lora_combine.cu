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

// A block has the results of some whole tokens of one group, neighbours in j next to each other.
template <class T>
__global__ void __launch_bounds__(kThreads) lora_combine(const Combine p, unsigned block_tokens) {
  const unsigned r = static_cast<unsigned>(p.r), t = threadIdx.x / r;
  const int64_t group = blockIdx.y, token = static_cast<int64_t>(blockIdx.x) * block_tokens + t;
  if (t >= block_tokens || token >= p.tokens) return;
  const int slot = slot_of(p.slots, token, p.tokens, p.code_rows);
  const T* s = static_cast<const T*>(p.S) + token * p.lds + group * p.K * p.r;
  const float* code = p.codes + static_cast<int64_t>(slot < 0 ? 0 : slot) * p.K;
  for (unsigned j = threadIdx.x - t * r; j < r; j += kThreads) {
    const float value = slot < 0 ? 0.0f : combine_entries(code, p.K, [&](int k) { return as_float(s[k * p.r + j]); });
    p.u[(group * p.tokens + token) * p.r + j] = value;
  }
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
  if (groups > kMaxGridY) return static_cast<int>(cudaErrorInvalidValue);
  const unsigned block_tokens = r < kThreads ? static_cast<unsigned>(kThreads / r) : 1;
  const dim3 grid(static_cast<unsigned>(ceil_div(tokens, block_tokens)), static_cast<unsigned>(groups));
  if (type == kF32) return launch(lora_combine<float>, grid, kThreads, 0, stream, p, block_tokens);
  if (type == kBF16) return launch(lora_combine<bf16>, grid, kThreads, 0, stream, p, block_tokens);
  return launch(lora_combine<f16>, grid, kThreads, 0, stream, p, block_tokens);
}
