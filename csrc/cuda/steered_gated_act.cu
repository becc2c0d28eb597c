// Gated activation with neuron steering: one thread per element, the arithmetic shared with the CPU kernels.
#include <cuda_runtime.h>

#define DPG_NS device
#include "dpg/cuda_api.h"
#include "dpg/elementwise.h"

namespace dpg {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxGridY = 65535;

template <class T, int ACT>
__global__ void __launch_bounds__(kThreads)
    steered_gated_act_kernel(const T* __restrict__ gate, int64_t ldg, const T* __restrict__ up, int64_t ldu,
                             T* __restrict__ h, int64_t ldh, int64_t tokens, int64_t width,
                             const int16_t* __restrict__ clamp_mask, const float* __restrict__ add,
                             const float* __restrict__ strengths, int64_t strength_rows,
                             const int32_t* __restrict__ slots) {
  const int64_t col = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (col >= width) return;
  for (int64_t token = blockIdx.y; token < tokens; token += gridDim.y) {
    const float g = device::to_float(gate[token * ldg + col]);
    const float u = device::to_float(up[token * ldu + col]);
    int bits = 0;
    float sum = 0.0f;
    const int64_t slot = strengths ? slots[token] : -1;
    if (slot >= 0 && slot < strength_rows) {
      for (int p = 0; p < kPoles; ++p) {
        const float s = strengths[slot * kPoles + p];
        if (s > 0.0f) {
          bits |= 1 << p;
          sum = fmaf(s, add[p * width + col], sum);
        }
      }
    }
    float out;
    if (bits) {
      const float bound = (clamp_mask[col] & bits) ? 0.0f : __int_as_float(0x7f800000);
      out = device::gated_steered<T, ACT>(g, u, bound, sum);
    } else {
      out = device::gated<T, ACT>(g, u);
    }
    h[token * ldh + col] = device::from_float<T>(out);
  }
}

template <class T, int ACT>
int launch(const void* gate, int64_t ldg, const void* up, int64_t ldu, void* h, int64_t ldh, int64_t tokens,
           int64_t width, const int16_t* clamp_mask, const float* add, const float* strengths, int64_t strength_rows,
           const int32_t* slots, void* stream) {
  const dim3 grid(static_cast<unsigned>((width + kThreads - 1) / kThreads),
                  static_cast<unsigned>(tokens < kMaxGridY ? tokens : kMaxGridY));
  steered_gated_act_kernel<T, ACT><<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<const T*>(gate), ldg, static_cast<const T*>(up), ldu, static_cast<T*>(h), ldh, tokens, width,
      clamp_mask, add, strengths, strength_rows, slots);
  return static_cast<int>(cudaGetLastError());
}

template <class T, class... Args>
int by_activation(Act act, Args... args) {
  if (act == kSilu) return launch<T, kSilu>(args...);
  if (act == kGeluTanh) return launch<T, kGeluTanh>(args...);
  return launch<T, kGelu>(args...);
}

}  // namespace

int steered_gated_act(DType type, Act act, const void* gate, int64_t ldg, const void* up, int64_t ldu, void* h,
                      int64_t ldh, int64_t tokens, int64_t width, const int16_t* clamp_mask, const float* add,
                      const float* strengths, int64_t strength_rows, const int32_t* slots, void* stream) {
  if (tokens == 0 || width == 0) return static_cast<int>(cudaSuccess);
  if (type == kF32)
    return by_activation<float>(act, gate, ldg, up, ldu, h, ldh, tokens, width, clamp_mask, add, strengths,
                                strength_rows, slots, stream);
  if (type == kBF16)
    return by_activation<bf16>(act, gate, ldg, up, ldu, h, ldh, tokens, width, clamp_mask, add, strengths,
                               strength_rows, slots, stream);
  return by_activation<f16>(act, gate, ldg, up, ldu, h, ldh, tokens, width, clamp_mask, add, strengths, strength_rows,
                            slots, stream);
}

const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace cuda
}  // namespace dpg
