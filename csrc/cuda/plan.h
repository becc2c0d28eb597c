// How work is cut into blocks: every choice that depends on sizes and on the device, in one place. None of them changes a
// result. Not measured on a GPU yet; the reasons are counts of instructions and bytes (docs/kernels.md).
#pragma once
#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>

namespace dpg {
namespace cuda {
namespace {

struct Machine {
  int64_t multiprocessors;
  int64_t shared;  // bytes of dynamic shared memory that one block may have
};

// The current device's, asked once (capturable: the host knows the answer).
inline Machine machine() {
#if defined(__CUDACC__)
  constexpr int kDevices = 16;
  static std::atomic<int> counts[kDevices], sizes[kDevices];
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) device = 0;
  const int at = device < kDevices ? device : kDevices - 1;
  if (counts[at] == 0 || at == kDevices - 1) {
    int count = 0, shared = 0;
    cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
    sizes[at] = shared > 0 ? shared : 48 * 1024;
    counts[at] = count > 0 ? count : 1;
  }
  return Machine{counts[at], sizes[at]};
#else
  return Machine{1, 99 * 1024};  // one: blocks go over several tiles at the sizes of tests
#endif
}

// Up to this many tokens a block has one tile of 16 of them, and its warps stand side by side.
constexpr int64_t kFewTokens = 16;

// Threads of the expands on one multiprocessor: twelve warps with up to 168 registers. With sixteen (128 registers) the
// gated activation spills up to 40 bytes, the additions up to 32.
constexpr int kResidentThreads = 384;

// Tiles of tokens that one block goes over with the columns that it holds: six rounds of blocks on the whole device keep
// the last round's loss below a sixth; sixteen tiles make reading the bank one part in sixteen of a block's bytes.
inline int64_t tiles_per_block(int64_t tiles, int64_t column_blocks, int64_t resident) {
  const int64_t wanted = tiles * column_blocks / (machine().multiprocessors * resident * 6);
  return wanted < 1 ? 1 : wanted > 16 ? 16 : wanted;
}

// Bank rows, a multiple of 16, that a block holds at a time: all, or as many as fit beside `fixed` bytes. 0: none fits.
inline int64_t rows_at_once(int64_t rows, int64_t fixed, int64_t bytes_per_row) {
  const int64_t padded = (rows + 15) / 16 * 16;
  const int64_t fit = (machine().shared - fixed) / (16 * bytes_per_row) * 16;
  return fit <= 0 ? 0 : padded < fit ? padded : fit;
}

}  // namespace
}  // namespace cuda
}  // namespace dpg
