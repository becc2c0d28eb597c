// Launchers of the CUDA kernels: device pointers, sizes and strides in elements, a stream. They return a cudaError_t.
#pragma once
#include <cstdint>

#include "dpg/types.h"

namespace dpg {
namespace cuda {

// h = steer(act(gate)) * up for tokens [tokens, width]. strengths null: no steering. A slot outside
// [0, strength_rows) leaves its token unsteered: the device cannot report it.
int steered_gated_act(DType type, Act act, const void* gate, int64_t ldg, const void* up, int64_t ldu, void* h,
                      int64_t ldh, int64_t tokens, int64_t width, const int16_t* clamp_mask, const float* add,
                      const float* strengths, int64_t strength_rows, const int32_t* slots, void* stream);

const char* error_text(int error);

}  // namespace cuda
}  // namespace dpg
