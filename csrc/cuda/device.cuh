// What all CUDA kernels share: launching, 16-byte accesses, conversions, the tensor-core product.
// The sources also compile with a plain C++ compiler against tests/cuda_emulator/cuda_runtime.h; whatever the language
// of CUDA adds to C++ beyond keywords and functions (launches, shared memory, inline assembly) is therefore kept here.
#pragma once
#include <cuda_runtime.h>

#include <type_traits>

#define DPG_NS device
#include "dpg/cuda_api.h"
#include "dpg/elementwise.h"

namespace dpg {
namespace cuda {
namespace {

constexpr unsigned kFullWarp = 0xffffffffu;
constexpr int64_t kMaxGridY = 65535;
constexpr size_t kDefaultShared = 48 * 1024;  // dynamic shared memory that needs no permission
constexpr size_t kMaxShared = 99 * 1024;      // what every device since sm_80 can give one block

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
__host__ __device__ constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

__device__ __forceinline__ unsigned char* shared_memory() {
#if defined(__CUDACC__)
  extern __shared__ __align__(16) unsigned char memory[];
  return memory;
#else
  return emulator::shared_memory();
#endif
}

template <class... Params, class... Args>
int launch(void (*kernel)(Params...), dim3 grid, unsigned threads, size_t shared, void* stream, Args... args) {
#if defined(__CUDACC__)
  if (shared > kDefaultShared) {
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return static_cast<int>(error);
  }
  kernel<<<grid, threads, shared, static_cast<cudaStream_t>(stream)>>>(static_cast<Params>(args)...);
  return static_cast<int>(cudaGetLastError());
#else
  (void)stream;
  return emulator::run(grid, threads, shared, [=] { kernel(static_cast<Params>(args)...); });
#endif
}

// ---- memory ----------------------------------------------------------------------------------------------------------

inline bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
// Rows of ld elements of `size` bytes that all start on 16 bytes.
inline bool rows_aligned16(const void* p, int64_t ld, int64_t size) { return aligned16(p) && ld * size % 16 == 0; }

// Memory that no thread writes while the kernel runs.
template <class V>
__device__ __forceinline__ V load_constant(const void* p) {
#if !defined(__CUDACC__)
  emulator::check_aligned(p, sizeof(V));
#endif
  return __ldg(static_cast<const V*>(p));
}
template <class V>
__device__ __forceinline__ V load(const void* p) {
#if !defined(__CUDACC__)
  emulator::check_aligned(p, sizeof(V));
#endif
  return *static_cast<const V*>(p);
}
template <class V>
__device__ __forceinline__ void store(void* p, const V& v) {
#if !defined(__CUDACC__)
  emulator::check_aligned(p, sizeof(V));
#endif
  *static_cast<V*>(p) = v;
}

__device__ __forceinline__ void prefetch_l2(const void* p) {
#if defined(__CUDA_ARCH__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#else
  (void)p;
#endif
}

// 16 bytes of T: 8 halves or 4 floats.
template <class T>
struct alignas(16) Pack {
  static constexpr int n = 16 / sizeof(T);
  T v[n];
};

// Pack<T>::n elements at p, of which the first `count` exist; ALIGNED: on 16 bytes, and all or none exist.
template <bool ALIGNED, class T>
__device__ __forceinline__ Pack<T> load_pack(const T* p, int64_t count) {
  Pack<T> out;
  if (ALIGNED) {
    uint4 raw = make_uint4(0, 0, 0, 0);
    if (count > 0) raw = load<uint4>(p);
    memcpy(&out, &raw, sizeof out);
  } else {
#pragma unroll
    for (int i = 0; i < Pack<T>::n; ++i) out.v[i] = i < count ? p[i] : T{};
  }
  return out;
}
template <bool ALIGNED, class T>
__device__ __forceinline__ void store_pack(T* p, const Pack<T>& in, int64_t count) {
  if (ALIGNED) {
    uint4 raw;
    memcpy(&raw, &in, sizeof raw);
    if (count > 0) store(p, raw);
  } else {
#pragma unroll
    for (int i = 0; i < Pack<T>::n; ++i)
      if (i < count) p[i] = in.v[i];
  }
}

// Columns c and up of a row that ends at `end`, 0 beyond. WHOLE: all of them exist.
template <bool ALIGNED, bool WHOLE, class T>
__device__ __forceinline__ Pack<T> load_columns(const T* row, int64_t c, int64_t end) {
  Pack<T> out;
  if (ALIGNED) {
    const bool there = WHOLE || c < end;
    const uint4 raw = load<uint4>(row + (there ? c : 0));
    const uint4 kept = make_uint4(there ? raw.x : 0, there ? raw.y : 0, there ? raw.z : 0, there ? raw.w : 0);
    memcpy(&out, &kept, sizeof out);
  } else {
#pragma unroll
    for (int i = 0; i < Pack<T>::n; ++i) {
      const bool there = WHOLE || c + i < end;
      const T raw = row[there ? c + i : 0];
      out.v[i] = there ? raw : T{};
    }
  }
  return out;
}

// ---- numbers ---------------------------------------------------------------------------------------------------------

__device__ __forceinline__ float as_float(float x) { return x; }
__device__ __forceinline__ float as_float(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
__device__ __forceinline__ float as_float(f16 x) {
#if defined(__CUDA_ARCH__)
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(x.bits));
  return out;
#else
  return device::to_float(x);
#endif
}

// Round to nearest, ties to even.
template <class T>
__device__ __forceinline__ T rounded(float x);
template <>
__device__ __forceinline__ float rounded<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 rounded<bf16>(float x) {
#if defined(__CUDA_ARCH__)
  bf16 out;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
  return out;
#else
  return device::from_float<bf16>(x);
#endif
}
template <>
__device__ __forceinline__ f16 rounded<f16>(float x) {
#if defined(__CUDA_ARCH__)
  f16 out;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
  return out;
#else
  return device::from_float<f16>(x);
#endif
}
template <class T>
__device__ __forceinline__ float through(float x) {
  return as_float(rounded<T>(x));
}

template <class T>
struct Fast {  // hardware exp and division (2 ulp of float32) are exact enough before a rounding to 8 or 11 bits
  static constexpr bool value = sizeof(T) == 2;
};

// The activation in float32, not rounded. The formulas are those of dpg/elementwise.h.
template <class T, int ACT>
__device__ __forceinline__ float activated(float x) {
  if (ACT == kGelu) return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
  const float z = ACT == kSilu ? x : 1.5957691216057308f * fmaf(0.044715f * x, x * x, x);
  if (Fast<T>::value) return __fdividef(x, 1.0f + __expf(-z));
  return x / (1.0f + expf(-z));
}

// ---- tensor cores ----------------------------------------------------------------------------------------------------

// d += a b, m16n8k16, with a lane's registers as PTX lays them out (g = lane / 4, t = lane % 4):
// a: rows g, g+8 at columns 2t, 2t+1, then rows g, g+8 at columns 2t+8, 2t+9; b: rows 2t, 2t+1 and 2t+8, 2t+9 of column
// g; d: columns 2t, 2t+1 of row g, then of row g+8.
template <class T>
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

#if defined(__CUDACC__)
template <>
__device__ __forceinline__ void mma<bf16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void mma<f16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#else
template <class T>
void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t b[2] = {b0, b1};
  emulator::mma_m16n8k16(d, a, b, [](uint16_t bits) { return device::to_float(T{bits}); });
}
#endif

__device__ __forceinline__ uint32_t pair(uint16_t low, uint16_t high) {
  return static_cast<uint32_t>(low) | static_cast<uint32_t>(high) << 16;
}

// ---- slots -----------------------------------------------------------------------------------------------------------

__device__ __forceinline__ int slot_of(const int32_t* slots, int64_t token, int64_t tokens, int64_t rows) {
  if (slots == nullptr || token >= tokens) return -1;
  const int slot = slots[token];
  return slot >= 0 && slot < rows ? slot : -1;
}

// ---- codes -----------------------------------------------------------------------------------------------------------

constexpr int kChains = 8;

// sum_k code[k] * entry(k), in one order everywhere: entry k goes to chain k % 8, and the chains are joined as a tree.
template <class Entry>
__device__ __forceinline__ float combine_entries(const float* code, int K, const Entry& entry) {
  float chain[kChains];
#pragma unroll
  for (int i = 0; i < kChains; ++i) chain[i] = 0.0f;
  for (int k0 = 0; k0 < K; k0 += kChains) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) {  // no load behind a condition: beyond the end the last entry is read, and not used
      const int k = k0 + i < K ? k0 + i : K - 1;
      const float more = fmaf(code[k], entry(k), chain[i]);
      chain[i] = k0 + i < K ? more : chain[i];
    }
  }
#pragma unroll
  for (int step = 1; step < kChains; step *= 2)
#pragma unroll
    for (int i = 0; i < kChains; i += 2 * step) chain[i] += chain[i + step];
  return chain[0];
}

}  // namespace
}  // namespace cuda
}  // namespace dpg
