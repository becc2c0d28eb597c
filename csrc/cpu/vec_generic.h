// Eight floats in a compiler vector: runs on every target, and calls the scalar functions lane by lane for exp and erf.
// Without fused multiply-adds each step rounds twice: eight lanes and short runs of bank rows keep sums as exact as BLAS'.
#pragma once
#include "dpg/elementwise.h"

namespace dpg {
namespace DPG_NS {
namespace {

struct VF {
  static constexpr int N = 8;
  typedef float R __attribute__((vector_size(32)));
  R v;
  VF() = default;
  explicit VF(float x) : v{x, x, x, x, x, x, x, x} {}
  explicit VF(R r) : v(r) {}
};
DPG_FN VF operator+(VF a, VF b) { return VF(a.v + b.v); }
DPG_FN VF operator-(VF a, VF b) { return VF(a.v - b.v); }
DPG_FN VF operator*(VF a, VF b) { return VF(a.v * b.v); }
DPG_FN VF operator/(VF a, VF b) { return VF(a.v / b.v); }
DPG_FN VF vfma(VF a, VF b, VF c) { return VF(a.v * b.v + c.v); }
DPG_FN float vsum(VF a) { return ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7])); }

template <class Fn>
DPG_FN VF lanes(VF a, Fn fn) {
  VF out;
  for (int i = 0; i < VF::N; ++i) out.v[i] = fn(a.v[i]);
  return out;
}
DPG_FN VF vexp(VF a) {
  return lanes(a, [](float x) { return vexp(x); });
}
DPG_FN VF verf(VF a) {
  return lanes(a, [](float x) { return verf(x); });
}
template <class T>
DPG_FN VF vround(VF a) {
  return lanes(a, [](float x) { return vround<T>(x); });
}
DPG_FN VF vmin(VF a, VF bound) {
  VF out;
  for (int i = 0; i < VF::N; ++i) out.v[i] = vmin(a.v[i], bound.v[i]);
  return out;
}

DPG_FN VF vzero_above(VF v, VF bound, VF a) {
  VF out;
  for (int i = 0; i < VF::N; ++i) out.v[i] = vzero_above(v.v[i], bound.v[i], a.v[i]);
  return out;
}

template <class T>
DPG_FN VF vload(const T* p) {
  VF out;
  for (int i = 0; i < VF::N; ++i) out.v[i] = to_float(p[i]);
  return out;
}
template <class T>
DPG_FN VF vload_n(const T* p, int n) {
  VF out(0.0f);
  for (int i = 0; i < n; ++i) out.v[i] = to_float(p[i]);
  return out;
}
template <class T>
DPG_FN void vstore(T* p, VF a) {
  for (int i = 0; i < VF::N; ++i) p[i] = from_float<T>(a.v[i]);
}
template <class T>
DPG_FN void vstore_n(T* p, VF a, int n) {
  for (int i = 0; i < n; ++i) p[i] = from_float<T>(a.v[i]);
}
// 0 where the mask shares a bit with `bits`, +infinity elsewhere.
DPG_FN VF vbound(const int16_t* mask, int32_t bits, int n) {
  VF out(__builtin_inff());
  for (int i = 0; i < n; ++i)
    if (mask[i] & bits) out.v[i] = 0.0f;
  return out;
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

DPG_FN void prefetch(const void* p) { __builtin_prefetch(p); }

// Register tile of the expand: at most kTileT tokens, kTileT * NV = kTileRegs accumulators; of the shrink: kDotT x kDotK.
constexpr int kTileT = 2, kTileRegs = 4, kDotT = 2, kDotK = 2;

// Bank rows that the expand sums by themselves: high ranks would add up as many roundings.
constexpr int64_t kSumRows = 16;

}  // namespace
}  // namespace DPG_NS
}  // namespace dpg
