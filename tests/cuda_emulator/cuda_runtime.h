// As much of CUDA as the kernels of dpg_fast use, on one CPU thread, for tests without a GPU.
//
// The threads of a block are fibers that run in turn until they wait: at a block barrier or for the other lanes of their
// warp. Shared memory is NaN when a block starts and lies between guard zones; vector accesses must be aligned; a block
// whose threads wait for different things is reported. Threads run in ascending or (set_order) descending order, so that
// a missing barrier shows as a difference or a NaN.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0, cudaErrorInvalidValue = 1;
const char* cudaGetErrorString(cudaError_t error);

extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

unsigned char* shared_memory();
void check_aligned(const void* p, size_t bytes);
// Runs body once per thread of the grid; 0, or an error that cudaGetErrorString explains.
int run(dim3 grid, unsigned threads, size_t shared, const std::function<void()>& body);

// Waits for the whole warp and passes `bytes` (at most 32) from every lane to all: lane i's are at result + 32 i, until
// the meeting after the next.
const unsigned char* warp_exchange(const void* mine, size_t bytes);
void warp_wait();
// An asynchronous copy of 16 bytes, `bytes` of them from `from` and zeros behind: it happens when the thread waits.
void copy_async(void* to, const void* from, int bytes);
void wait_copies();
int block_barrier(int value);  // the or of the values

inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float (*widen)(uint16_t)) {
  struct Registers {
    uint32_t a[4], b[2];
  } mine;
  std::memcpy(mine.a, a, sizeof mine.a);
  std::memcpy(mine.b, b, sizeof mine.b);
  const unsigned char* all = warp_exchange(&mine, sizeof mine);
  const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + (i / 2) * 8, column = 2 * t + i % 2;
    float sum = d[i];
    for (int k = 0; k < 16; ++k) {
      const auto& from_a = *reinterpret_cast<const Registers*>(all + 32 * ((row % 8) * 4 + (k % 8) / 2));
      const auto& from_b = *reinterpret_cast<const Registers*>(all + 32 * (column * 4 + (k % 8) / 2));
      const uint32_t wa = from_a.a[row / 8 + 2 * (k / 8)], wb = from_b.b[k / 8];
      sum += widen(static_cast<uint16_t>(wa >> (16 * (k % 2)))) * widen(static_cast<uint16_t>(wb >> (16 * (k % 2))));
    }
    d[i] = sum;
  }
}

}  // namespace emulator

inline void __syncthreads() { emulator::block_barrier(0); }
inline int __syncthreads_or(int value) { return emulator::block_barrier(value != 0); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  const unsigned char* all = emulator::warp_exchange(&value, sizeof value);
  T got;
  std::memcpy(&got, all + 32 * ((threadIdx.x % 32) ^ mask), sizeof got);
  return got;
}
inline int __any_sync(unsigned, int value) {
  const int mine = value != 0;
  const unsigned char* all = emulator::warp_exchange(&mine, sizeof mine);
  int any = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    int got;
    std::memcpy(&got, all + 32 * lane, sizeof got);
    any |= got;
  }
  return any;
}
inline void __syncwarp(unsigned = 0xffffffffu) { emulator::warp_wait(); }

template <class T>
T __ldg(const T* p) {
  return *p;
}
inline float __uint_as_float(uint32_t b) {
  float x;
  std::memcpy(&x, &b, sizeof x);
  return x;
}
inline uint32_t __float_as_uint(float x) {
  uint32_t b;
  std::memcpy(&b, &x, sizeof b);
  return b;
}
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32); }
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) out |= static_cast<uint32_t>(bytes >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
  return out;
}
template <class T>
T atomicAdd(T* p, T value) {
  const T before = *p;
  *p += value;
  return before;
}
