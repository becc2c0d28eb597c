// What all CUDA kernels share: launching, 16-byte accesses, conversions, the tensor-core product.
// The sources also compile with a plain C++ compiler against tests/cuda_emulator/cuda_runtime.h; whatever the language
// of CUDA adds to C++ beyond keywords and functions (launches, shared memory, inline assembly) is therefore kept here.
#pragma once
#include <cuda_runtime.h>

#include <atomic>
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

#if defined(__CUDACC__)
// Lets a kernel have this much dynamic shared memory on the current device; the driver is asked when it is more than before.
inline int allow_shared(const void* kernel, size_t shared) {
  constexpr int kKernels = 32, kDevices = 16;
  static std::atomic<const void*> kernels[kKernels];
  static std::atomic<size_t> allowed[kKernels][kDevices];
  int device = 0, at = 0;
  if (const cudaError_t error = cudaGetDevice(&device)) return static_cast<int>(error);
  for (; at < kKernels; ++at) {
    const void* found = nullptr;
    if (kernels[at].compare_exchange_strong(found, kernel) || found == kernel) break;
  }
  const bool known = at < kKernels && device < kDevices;
  if (known && shared <= allowed[at][device]) return static_cast<int>(cudaSuccess);
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  if (known && error == cudaSuccess) allowed[at][device] = shared;
  return static_cast<int>(error);
}
#endif

template <class... Params, class... Args>
int launch(void (*kernel)(Params...), dim3 grid, unsigned threads, size_t shared, void* stream, Args... args) {
#if defined(__CUDACC__)
  if (shared > kDefaultShared) {
    const int error = allow_shared(reinterpret_cast<const void*>(kernel), shared);
    if (error != 0) return error;
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

// One store of 16 bytes; beside a path for other alignments the compiler splits a plain one into four.
__device__ __forceinline__ void store_global(void* p, const uint4& v) {
#if defined(__CUDACC__)
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)), "r"(v.x), "r"(v.y), "r"(v.z),
               "r"(v.w)
               : "memory");
#else
  store(p, v);
#endif
}

// Starts copying 16 bytes to shared memory: `bytes` of them (0 or 16) from `from`, zeros for the rest. They are there for the
// thread itself after wait_copies, for the block after a barrier behind it.
__device__ __forceinline__ void copy_async(void* shared, const void* from, int bytes) {
#if defined(__CUDACC__)
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
#else
  emulator::copy_async(shared, from, bytes);
#endif
}
__device__ __forceinline__ void wait_copies() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_all;" ::: "memory");
#else
  emulator::wait_copies();
#endif
}

// 16 bytes of T: 8 halves or 4 floats.
template <class T>
struct alignas(16) Pack {
  static constexpr int n = 16 / sizeof(T);
  T v[n];
};

// Pack<T>::n elements at p, of which the first `count` exist; aligned: on 16 bytes, and all or none exist.
template <class T>
__device__ __forceinline__ Pack<T> load_pack(bool aligned, const T* p, int64_t count) {
  Pack<T> out;
  if (aligned) {
    uint4 raw = make_uint4(0, 0, 0, 0);
    if (count > 0) raw = load<uint4>(p);
    memcpy(&out, &raw, sizeof out);
  } else {
#pragma unroll
    for (int i = 0; i < Pack<T>::n; ++i) out.v[i] = i < count ? p[i] : T{};
  }
  return out;
}
template <class T>
__device__ __forceinline__ void store_pack(bool aligned, T* p, const Pack<T>& in, int64_t count) {
  if (aligned) {
    uint4 raw;
    memcpy(&raw, &in, sizeof raw);
    if (count > 0) store_global(p, raw);
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
  uint32_t out;  // the conversion of one goes through a slow pipe
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(0.0f), "f"(x));
  return bf16{static_cast<uint16_t>(out)};
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

// Both rounded to a half, low in the lower 16 bits. One instruction; the conversion of a single bfloat16 goes through a
// pipe of a quarter of its rate.
template <class T>
__device__ __forceinline__ uint32_t rounded_pair(float low, float high) {
#if defined(__CUDA_ARCH__)
  uint32_t out;
  if constexpr (std::is_same<T, bf16>::value)
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
#else
  return static_cast<uint32_t>(device::from_float<T>(low).bits) | static_cast<uint32_t>(device::from_float<T>(high).bits) << 16;
#endif
}
template <class T>
__device__ __forceinline__ float low_of(uint32_t pair) {
  if constexpr (std::is_same<T, bf16>::value) return __uint_as_float(pair << 16);
  return as_float(T{static_cast<uint16_t>(pair)});
}
template <class T>
__device__ __forceinline__ float high_of(uint32_t pair) {
  if constexpr (std::is_same<T, bf16>::value) return __uint_as_float(pair & 0xffff0000u);
  return as_float(T{static_cast<uint16_t>(pair >> 16)});
}

// N float32 values rounded to T, as float32 again, and as T.
template <class T, int N>
__device__ __forceinline__ void round_all(float (&v)[N]) {
  if constexpr (sizeof(T) == 2) {
    if constexpr (N == 1) {
      v[0] = through<T>(v[0]);
    } else {
#pragma unroll
      for (int i = 0; i < N; i += 2) {
        const uint32_t both = rounded_pair<T>(v[i], v[i + 1]);
        v[i] = low_of<T>(both);
        v[i + 1] = high_of<T>(both);
      }
    }
  }
}
template <class T>
__device__ __forceinline__ Pack<T> packed(const float (&v)[Pack<T>::n]) {
  Pack<T> out;
  if constexpr (sizeof(T) == 2) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = rounded_pair<T>(v[2 * i], v[2 * i + 1]);
    memcpy(&out, words, sizeof out);
  } else {
#pragma unroll
    for (int i = 0; i < Pack<T>::n; ++i) out.v[i] = v[i];
  }
  return out;
}
template <class T>
__device__ __forceinline__ void unpacked(const Pack<T>& in, float (&v)[Pack<T>::n]) {
  if constexpr (sizeof(T) == 2) {
    uint32_t words[4];
    memcpy(words, &in, sizeof words);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[2 * i] = low_of<T>(words[i]);
      v[2 * i + 1] = high_of<T>(words[i]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < Pack<T>::n; ++i) v[i] = in.v[i];
  }
}

template <class T>
struct Fast {  // hardware exp and division (2 ulp of float32) are exact enough before a rounding to 8 or 11 bits
  static constexpr bool value = sizeof(T) == 2;
};

// The activation, rounded to T. The formulas are those of dpg/elementwise.h.
template <class T>
__device__ __forceinline__ float logistic_gate(float x, float z) {
  if (Fast<T>::value) return __fdividef(x, 1.0f + __expf(-z));
  return x / (1.0f + expf(-z));
}
// N values at once: which activation it is, is asked once for all of them.
template <class T, int N>
__device__ __forceinline__ void activate(int act, float (&v)[N]) {
  if (act == kSilu) {
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = logistic_gate<T>(v[i], v[i]);
  } else if (act == kGeluTanh) {
#pragma unroll
    for (int i = 0; i < N; ++i)
      v[i] = logistic_gate<T>(v[i], 1.5957691216057308f * fmaf(0.044715f * v[i], v[i] * v[i], v[i]));
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = 0.5f * v[i] * (1.0f + erff(v[i] * 0.70710678118654752f));
  }
  round_all<T>(v);
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

// Division of small numbers (n * by below 2^32) by one that the host knows: a multiplication.
struct Divisor {
  int by;
  uint32_t magic;  // ceil(2^32 / by)
  __device__ __forceinline__ int of(int n) const {
    return by == 1 ? n : static_cast<int>(__umulhi(static_cast<uint32_t>(n), magic));
  }
};
inline Divisor divisor(int64_t by) {
  const uint64_t d = by > 0 ? static_cast<uint64_t>(by) : 1;
  return Divisor{static_cast<int>(d), static_cast<uint32_t>(((1ull << 32) + d - 1) / d)};
}

// ---- slots -----------------------------------------------------------------------------------------------------------

__device__ __forceinline__ int slot_of(const int32_t* slots, int64_t token, int64_t tokens, int64_t rows) {
  if (slots == nullptr || token >= tokens) return -1;
  const int slot = slots[token];
  return slot >= 0 && slot < rows ? slot : -1;
}

// ---- codes -----------------------------------------------------------------------------------------------------------

constexpr int kChains = 8;

__device__ __forceinline__ float times_plus(float code, float entry, float sum) { return fmaf(code, entry, sum); }
__device__ __forceinline__ float2 times_plus(float code, float2 entry, float2 sum) {
  return make_float2(fmaf(code, entry.x, sum.x), fmaf(code, entry.y, sum.y));
}
__device__ __forceinline__ float plus(float a, float b) { return a + b; }
__device__ __forceinline__ float2 plus(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }

// sum_k code[k] * entry(k), in one order everywhere: entry k goes to chain k % 8, and the chains are joined as a tree.
// V: float, or float2 for two sums side by side.
template <class V, class Entry>
__device__ __forceinline__ V combine_as(const float* code, int K, const Entry& entry) {
  V chain[kChains];
#pragma unroll
  for (int i = 0; i < kChains; ++i) chain[i] = V{};
  for (int k0 = 0; k0 < K; k0 += kChains) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) {  // no load behind a condition: beyond the end the last entry is read, and not used
      const int k = k0 + i < K ? k0 + i : K - 1;
      const V more = times_plus(code[k], entry(k), chain[i]);
      if (k0 + i < K) chain[i] = more;
    }
  }
#pragma unroll
  for (int step = 1; step < kChains; step *= 2)
#pragma unroll
    for (int i = 0; i < kChains; i += 2 * step) chain[i] = plus(chain[i], chain[i + step]);
  return chain[0];
}
template <class Entry>
__device__ __forceinline__ float combine_entries(const float* code, int K, const Entry& entry) {
  return combine_as<float>(code, K, entry);
}
template <class Entry>
__device__ __forceinline__ float2 combine_pairs(const float* code, int K, const Entry& entry) {
  return combine_as<float2>(code, K, entry);
}

}  // namespace
}  // namespace cuda
}  // namespace dpg
