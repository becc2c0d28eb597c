// Kernels that do what the emulator must notice.
#include "cuda/device.cuh"

namespace {

using namespace dpg::cuda;

void misaligned(const char* p) { load<uint4>(p + 4); }
void overrun(int) { reinterpret_cast<int*>(shared_memory())[blockDim.x] = 1; }
void uneven_barrier(int) {
  if (threadIdx.x < 16)
    __syncthreads();
  else
    __syncwarp();
}
// What thread 0 stores is read by the last thread: without a barrier one order of the threads shows it.
void race(float* out) {
  float* shared = reinterpret_cast<float*>(shared_memory());
  if (threadIdx.x == 0) shared[0] = 1.0f;
  if (threadIdx.x == blockDim.x - 1) *out = shared[0];
}

// A copy that nobody waits for.
void no_wait(const char* p) { copy_async(shared_memory(), p, 16); }

}  // namespace

extern "C" int dpg_fault_misaligned() {
  alignas(16) static const char bytes[64] = {};
  return launch(misaligned, dim3(1), 1, 0, nullptr, bytes);
}
extern "C" int dpg_fault_overrun() { return launch(overrun, dim3(1), 32, 32 * sizeof(int), nullptr, 0); }
extern "C" int dpg_fault_uneven_barrier() { return launch(uneven_barrier, dim3(1), 32, 0, nullptr, 0); }
extern "C" int dpg_fault_race(float* out) { return launch(race, dim3(1), 64, 16, nullptr, out); }
extern "C" int dpg_fault_no_wait() {
  alignas(16) static const char bytes[16] = {};
  return launch(no_wait, dim3(1), 1, 16, nullptr, bytes);
}
