// Eight floats (AVX2, FMA, F16C).
#pragma once
#include <immintrin.h>

#include "dpg/elementwise.h"

namespace dpg {
namespace DPG_NS {
namespace {

struct VF {
  static constexpr int N = 8;
  __m256 v;
  VF() = default;
  explicit DPG_FN VF(float x) : v(_mm256_set1_ps(x)) {}
  explicit DPG_FN VF(__m256 r) : v(r) {}
};
DPG_FN VF operator+(VF a, VF b) { return VF(_mm256_add_ps(a.v, b.v)); }
DPG_FN VF operator-(VF a, VF b) { return VF(_mm256_sub_ps(a.v, b.v)); }
DPG_FN VF operator*(VF a, VF b) { return VF(_mm256_mul_ps(a.v, b.v)); }
DPG_FN VF operator/(VF a, VF b) { return VF(_mm256_div_ps(a.v, b.v)); }
DPG_FN VF vfma(VF a, VF b, VF c) { return VF(_mm256_fmadd_ps(a.v, b.v, c.v)); }
// minps and maxps return their second operand when either is NaN.
DPG_FN VF vmin(VF a, VF bound) { return VF(_mm256_min_ps(bound.v, a.v)); }
DPG_FN VF vmax(VF a, VF bound) { return VF(_mm256_max_ps(bound.v, a.v)); }
DPG_FN float vsum(VF a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  s = _mm_add_ss(s, _mm_movehdup_ps(s));
  return _mm_cvtss_f32(s);
}
DPG_FN VF vabs(VF a) { return VF(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)); }
DPG_FN VF vcopysign(VF a, VF sign) {
  return VF(_mm256_or_ps(a.v, _mm256_and_ps(_mm256_set1_ps(-0.0f), sign.v)));
}
// b where |x| < limit, else a
DPG_FN VF vpick_below(VF x, float limit, VF a, VF b) {
  return VF(_mm256_blendv_ps(a.v, b.v, _mm256_cmp_ps(x.v, _mm256_set1_ps(limit), _CMP_LT_OQ)));
}
// 0 where v > bound, else a
DPG_FN VF vzero_above(VF v, VF bound, VF a) {
  return VF(_mm256_andnot_ps(_mm256_cmp_ps(v.v, bound.v, _CMP_GT_OQ), a.v));
}
DPG_FN VF vnearest(VF a) { return VF(_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)); }
// p * 2^n in two steps, so that subnormal and overflowing results come out right; |n| < 252
DPG_FN VF vscale2(VF p, VF n) {
  const __m256i i = _mm256_cvtps_epi32(n.v);
  const __m256i half = _mm256_srai_epi32(i, 1), bias = _mm256_set1_epi32(127);
  const __m256 s0 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const __m256 s1 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, half), bias), 23));
  return VF(_mm256_mul_ps(_mm256_mul_ps(p.v, s0), s1));
}

// Conversions between storage and float.
DPG_FN __m128i bf16_bits(__m256 x) {
  const __m256i b = _mm256_castps_si256(x);
  const __m256i lsb = _mm256_and_si256(_mm256_srli_epi32(b, 16), _mm256_set1_epi32(1));
  __m256i r = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(b, _mm256_set1_epi32(0x7fff)), lsb), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(b, 16), _mm256_set1_epi32(0x40));
  r = _mm256_blendv_epi8(r, quiet, nan);
  r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
  return _mm256_castsi256_si128(r);
}
DPG_FN __m256 widen_bf16(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }

DPG_FN VF vload(const float* p) { return VF(_mm256_loadu_ps(p)); }
DPG_FN VF vload(const bf16* p) { return VF(widen_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))); }
DPG_FN VF vload(const f16* p) { return VF(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))); }
DPG_FN void vstore(float* p, VF a) { _mm256_storeu_ps(p, a.v); }
DPG_FN void vstore(bf16* p, VF a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bf16_bits(a.v)); }
DPG_FN void vstore(f16* p, VF a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
template <class T>
DPG_FN VF vload_n(const T* p, int n) {
  T buf[VF::N];
  std::memset(buf, 0, sizeof buf);
  for (int i = 0; i < n; ++i) buf[i] = p[i];
  return vload(buf);
}
template <class T>
DPG_FN void vstore_n(T* p, VF a, int n) {
  T buf[VF::N];
  vstore(buf, a);
  for (int i = 0; i < n; ++i) p[i] = buf[i];
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
  return VF(_mm256_cvtph_ps(_mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT)));
}
// 0 where the mask shares a bit with `bits`, +infinity elsewhere.
DPG_FN VF vbound(const int16_t* mask, int32_t bits, int n) {
  int16_t buf[VF::N] = {0, 0, 0, 0, 0, 0, 0, 0};
  if (n < VF::N) {
    for (int i = 0; i < n; ++i) buf[i] = mask[i];
    mask = buf;
  }
  const __m256i m = _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(mask)));
  const __m256i off = _mm256_cmpeq_epi32(_mm256_and_si256(m, _mm256_set1_epi32(bits)), _mm256_setzero_si256());
  return VF(_mm256_and_ps(_mm256_castsi256_ps(off), _mm256_set1_ps(__builtin_inff())));
}

template <class T>
struct Dot {
  static constexpr int step = VF::N;
  typedef VF R;
  static DPG_FN R load(const T* p) { return vload(p); }
  static DPG_FN R load_n(const T* p, int n) { return vload_n(p, n); }
  static DPG_FN VF mac(VF acc, R a, R b) { return vfma(a, b, acc); }
};

DPG_FN void prefetch(const void* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }

constexpr int kTileT = 4, kTileRegs = 8, kDotT = 2, kDotK = 6;

// Bank rows that the expand sums by themselves: high ranks would add up as many roundings.
constexpr int64_t kSumRows = 128;

}  // namespace
}  // namespace DPG_NS
}  // namespace dpg

#include "cpu/vec_math.h"
