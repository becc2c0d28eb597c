#include <cuda_runtime.h>

#include "dpg/cuda_api.h"

extern "C" const char* dpg_cuda_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }
