// Sixteen floats (AVX-512 F, BW, DQ, VL); with DPG_BF16_DOT the dot product of bf16 uses AVX512_BF16.
#pragma once
#include <immintrin.h>

#include "dpg/elementwise.h"

namespace dpg {
namespace DPG_NS {
namespace {

struct VF {
  static constexpr int N = 16;
  __m512 v;
  VF() = default;
  explicit DPG_FN VF(float x) : v(_mm512_set1_ps(x)) {}
  explicit DPG_FN VF(__m512 r) : v(r) {}
};
DPG_FN VF operator+(VF a, VF b) { return VF(_mm512_add_ps(a.v, b.v)); }
DPG_FN VF operator-(VF a, VF b) { return VF(_mm512_sub_ps(a.v, b.v)); }
DPG_FN VF operator*(VF a, VF b) { return VF(_mm512_mul_ps(a.v, b.v)); }
DPG_FN VF operator/(VF a, VF b) { return VF(_mm512_div_ps(a.v, b.v)); }
DPG_FN VF vfma(VF a, VF b, VF c) { return VF(_mm512_fmadd_ps(a.v, b.v, c.v)); }
// minps and maxps return their second operand when either is NaN.
DPG_FN VF vmin(VF a, VF bound) { return VF(_mm512_min_ps(bound.v, a.v)); }
DPG_FN VF vmax(VF a, VF bound) { return VF(_mm512_max_ps(bound.v, a.v)); }
DPG_FN float vsum(VF a) {
  const __m256 q = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(q), _mm256_extractf128_ps(q, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  s = _mm_add_ss(s, _mm_movehdup_ps(s));
  return _mm_cvtss_f32(s);
}
DPG_FN VF vabs(VF a) { return VF(_mm512_abs_ps(a.v)); }
DPG_FN VF vcopysign(VF a, VF sign) {
  return VF(_mm512_or_ps(a.v, _mm512_and_ps(_mm512_set1_ps(-0.0f), sign.v)));
}
// b where x < limit, else a
DPG_FN VF vpick_below(VF x, float limit, VF a, VF b) {
  return VF(_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(limit), _CMP_LT_OQ), a.v, b.v));
}
// 0 where v > bound, else a
DPG_FN VF vzero_above(VF v, VF bound, VF a) {
  return VF(_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(v.v, bound.v, _CMP_NGT_UQ), a.v));
}
DPG_FN VF vnearest(VF a) { return VF(_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)); }
DPG_FN VF vscale2(VF p, VF n) { return VF(_mm512_scalef_ps(p.v, n.v)); }

// Conversions between storage and float.
#if defined(DPG_BF16_DOT)
// Subnormal numbers, below 1.2e-38, become zero.
DPG_FN __m256i bf16_bits(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
#else
DPG_FN __m256i bf16_bits(__m512 x) {
  const __m512i b = _mm512_castps_si512(x);
  const __m512i lsb = _mm512_and_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(1));
  const __m512i r = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(b, _mm512_set1_epi32(0x7fff)), lsb), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(0x40));
  return _mm512_cvtepi32_epi16(_mm512_mask_blend_epi32(nan, r, quiet));
}
#endif
DPG_FN __m512 widen_bf16(__m256i h) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16)); }
DPG_FN __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

DPG_FN VF vload(const float* p) { return VF(_mm512_loadu_ps(p)); }
DPG_FN VF vload(const bf16* p) { return VF(widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))); }
DPG_FN VF vload(const f16* p) { return VF(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))); }
DPG_FN VF vload_n(const float* p, int n) { return VF(_mm512_maskz_loadu_ps(first(n), p)); }
DPG_FN VF vload_n(const bf16* p, int n) { return VF(widen_bf16(_mm256_maskz_loadu_epi16(first(n), p))); }
DPG_FN VF vload_n(const f16* p, int n) { return VF(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p))); }
DPG_FN void vstore(float* p, VF a) { _mm512_storeu_ps(p, a.v); }
DPG_FN void vstore(bf16* p, VF a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bf16_bits(a.v)); }
DPG_FN void vstore(f16* p, VF a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
DPG_FN void vstore_n(float* p, VF a, int n) { _mm512_mask_storeu_ps(p, first(n), a.v); }
DPG_FN void vstore_n(bf16* p, VF a, int n) { _mm256_mask_storeu_epi16(p, first(n), bf16_bits(a.v)); }
DPG_FN void vstore_n(f16* p, VF a, int n) {
  _mm256_mask_storeu_epi16(p, first(n), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}

template <class T>
DPG_FN VF vround(VF a);
template <>
DPG_FN VF vround<float>(VF a) {
  return a;
}
template <>
DPG_FN VF vround<bf16>(VF a) {
  return VF(widen_bf16(bf16_bits(a.v)));
}
template <>
DPG_FN VF vround<f16>(VF a) {
  return VF(_mm512_cvtph_ps(_mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT)));
}
// 0 where the mask shares a bit with `bits`, +infinity elsewhere.
DPG_FN VF vbound(const int16_t* mask, int32_t bits, int n) {
  const __m512i m = _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(first(n), mask));
  const __mmask16 off = _mm512_testn_epi32_mask(m, _mm512_set1_epi32(bits));
  return VF(_mm512_maskz_mov_ps(off, _mm512_set1_ps(__builtin_inff())));
}

// One step of a dot product: `step` elements of x and of a bank row.
template <class T>
struct Dot {
  static constexpr int step = VF::N;
  typedef VF R;
  static DPG_FN R load(const T* p) { return vload(p); }
  static DPG_FN R load_n(const T* p, int n) { return vload_n(p, n); }
  static DPG_FN VF mac(VF acc, R a, R b) { return vfma(a, b, acc); }
};
#if defined(DPG_BF16_DOT)
template <>
struct Dot<bf16> {
  static constexpr int step = 32;
  typedef __m512i R;
  static DPG_FN R load(const bf16* p) { return _mm512_loadu_si512(p); }
  static DPG_FN R load_n(const bf16* p, int n) {
    return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((1ull << n) - 1ull), p);
  }
  static DPG_FN VF mac(VF acc, R a, R b) { return VF(_mm512_dpbf16_ps(acc.v, (__m512bh)a, (__m512bh)b)); }
};
#endif

DPG_FN void prefetch(const void* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }

constexpr int kTileT = 8, kTileRegs = 16, kDotT = 4, kDotK = 6;

// Bank rows that the expand sums by themselves: high ranks would add up as many roundings.
constexpr int64_t kSumRows = 128;

}  // namespace
}  // namespace DPG_NS
}  // namespace dpg

#include "cpu/vec_math.h"
