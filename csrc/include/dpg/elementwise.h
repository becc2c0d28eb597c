// Per-element arithmetic of the gated activation, written once for a number type F: float (generic CPU code, CUDA) or
// a SIMD vector of floats. A translation unit sets DPG_NS before including this file, so that copies compiled for
// different instruction sets never share a symbol.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "dpg/types.h"

#if defined(__CUDACC__)
#define DPG_FN __host__ __device__ __forceinline__
#else
#define DPG_FN inline __attribute__((always_inline))
#endif

namespace dpg {
namespace DPG_NS {
namespace {

DPG_FN uint32_t float_bits(float x) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(x);
#else
  uint32_t b;
  std::memcpy(&b, &x, sizeof b);
  return b;
#endif
}

DPG_FN float bits_float(uint32_t b) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(b);
#else
  float x;
  std::memcpy(&x, &b, sizeof x);
  return x;
#endif
}

// Conversions: round to nearest, ties to even; NaN stays NaN.
DPG_FN float to_float(float x) { return x; }
DPG_FN float to_float(bf16 x) { return bits_float(static_cast<uint32_t>(x.bits) << 16); }
DPG_FN float to_float(f16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t a = x.bits & 0x7fffu;
  if (a >= 0x7c00u) return bits_float(sign | 0x7f800000u | ((a & 0x3ffu) << 13));
  if (a < 0x400u) return bits_float(sign | float_bits(static_cast<float>(a) * 0x1p-24f));
  return bits_float(sign | ((a << 13) + 0x38000000u));
}

template <class T>
DPG_FN T from_float(float x);
template <>
DPG_FN float from_float<float>(float x) {
  return x;
}
template <>
DPG_FN bf16 from_float<bf16>(float x) {
  const uint32_t b = float_bits(x);
  if ((b & 0x7fffffffu) > 0x7f800000u) return bf16{static_cast<uint16_t>((b >> 16) | 0x40u)};
  return bf16{static_cast<uint16_t>((b + 0x7fffu + ((b >> 16) & 1u)) >> 16)};
}
template <>
DPG_FN f16 from_float<f16>(float x) {
  const uint32_t b = float_bits(x);
  const uint32_t sign = (b >> 16) & 0x8000u;
  uint32_t a = b & 0x7fffffffu;
  if (a > 0x7f800000u) return f16{static_cast<uint16_t>(sign | 0x7e00u)};
  if (a >= 0x477ff000u) return f16{static_cast<uint16_t>(sign | 0x7c00u)};  // 65520 and above round to infinity
  if (a < 0x38800000u) {
    // One ulp of 0.5f is the smallest subnormal of fp16, so the addition does the rounding.
    return f16{static_cast<uint16_t>(sign | (float_bits(bits_float(a) + 0.5f) - 0x3f000000u))};
  }
  a += 0xfffu + ((a >> 13) & 1u);
  return f16{static_cast<uint16_t>(sign | ((a - 0x38000000u) >> 13))};
}

// The scalar form of the primitives that a SIMD type brings with it.
DPG_FN float vexp(float x) { return expf(x); }
DPG_FN float verf(float x) { return erff(x); }
DPG_FN float vfma(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
// min(v, bound) that keeps a NaN in v, as torch.clamp does.
DPG_FN float vmin(float v, float bound) { return v > bound ? bound : v; }
// 0 where v > bound, else a
DPG_FN float vzero_above(float v, float bound, float a) { return v > bound ? 0.0f : a; }
template <class T>
DPG_FN float vround(float x) {
  return to_float(from_float<T>(x));
}

template <int ACT, class F>
DPG_FN F activation(F x) {
  const F one(1.0f);
  if (ACT == kSilu) return x / (one + vexp(F(0.0f) - x));
  if (ACT == kGeluTanh) {
    // 0.5 x (1 + tanh z) = x / (1 + exp(-2z)),  z = sqrt(2/pi) (x + 0.044715 x^3)
    const F inner = vfma(F(0.044715f) * x, x * x, x);
    return x / (one + vexp(F(-1.5957691216057308f) * inner));
  }
  return F(0.5f) * x * (one + verf(x * F(0.70710678118654752f)));
}

// The derivative of the activation at x, whose value is also returned.
template <int ACT, class F>
DPG_FN F activation_and_slope(F x, F* slope) {
  const F one(1.0f);
  if (ACT == kGelu) {
    const F half = F(0.5f) * (one + verf(x * F(0.70710678118654752f)));
    *slope = vfma(x * F(0.3989422804014327f), vexp(F(-0.5f) * x * x), half);
    return x * half;
  }
  // x s with s = sigmoid(z): the derivative is s + x s (1 - s) dz/dx. Far out, where s (1 - s) is 0, x may not overflow.
  const F zero(0.0f), far(20.0f), c = ACT == kSilu ? x : zero - vmin(zero - vmin(x, far), far);
  const F z = ACT == kSilu ? x : F(1.5957691216057308f) * vfma(F(0.044715f) * c, c * c, c);
  const F steep = ACT == kSilu ? one : vfma(F(0.21406444881780074f) * c, c, F(1.5957691216057308f));
  const F e = vexp(vmin(zero - z, F(80.0f))), s = one / (one + e);
  *slope = vfma(c * steep, s * (e * s), s);
  return x / (one + e);
}

// v = round(act(g)); steering: v = round(min(v, bound) + add); h = v * u (the caller's store rounds it).
// bound is 0 where an active pole clamps this neuron and +infinity elsewhere.
template <class T, int ACT, class F>
DPG_FN F gated(F g, F u) {
  return vround<T>(activation<ACT>(g)) * u;
}
template <class T, int ACT, class F>
DPG_FN F gated_steered(F g, F u, F bound, F add) {
  const F v = vmin(vround<T>(activation<ACT>(g)), bound);
  return vround<T>(v + add) * u;
}

}  // namespace
}  // namespace DPG_NS
}  // namespace dpg
