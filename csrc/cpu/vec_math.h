// exp and erf for the SIMD types, within 2 ulp. Coefficients: our own weighted least-squares (near-minimax) fits.
#pragma once

namespace dpg {
namespace DPG_NS {
namespace {

// exp(x) = 2^n exp(r), |r| <= ln(2)/2, exp(r) = 1 + r + r^2 P(r)
DPG_FN VF vexp(VF x) {
  const VF c = vmin(vmax(x, VF(-105.0f)), VF(89.0f));
  const VF n = vnearest(c * VF(1.44269504088896341f));
  VF r = vfma(n, VF(-0.693145751953125f), c);
  r = vfma(n, VF(-1.42860682030941723e-6f), r);
  VF p = vfma(VF(1.38146e-3f), r, VF(8.36872e-3f));
  p = vfma(p, r, VF(4.166839e-2f));
  p = vfma(p, r, VF(1.6666521e-1f));
  p = vfma(p, r, VF(4.9999993e-1f));
  p = vfma(p, r * r, r) + VF(1.0f);
  return vscale2(p, n);
}

// |x| < 0.9: x P(x^2); otherwise 1 - exp(Q(|x|)), Q approximating log erfc
DPG_FN VF verf(VF x) {
  const VF a = vmin(vabs(x), VF(3.95f));
  const VF s = x * x;
  VF p = vfma(VF(-6.0903980e-4f), s, VF(5.01197136e-3f));
  p = vfma(p, s, VF(-2.677891590e-2f));
  p = vfma(p, s, VF(1.1282141062e-1f));
  p = vfma(p, s, VF(-3.7612523313e-1f));
  p = vfma(p, s, VF(1.28379153812513e-1f));
  const VF small = vfma(x, p, x);
  VF q = vfma(VF(-2.053108660526881e-5f), a, VF(4.279905442217125e-4f));
  q = vfma(q, a, VF(-4.139966156346708e-3f));
  q = vfma(q, a, VF(2.503830267304652e-2f));
  q = vfma(q, a, VF(-1.0815592297610754e-1f));
  q = vfma(q, a, VF(-6.334584756230786e-1f));
  q = vfma(q, a, VF(-1.1294603964667491f));
  q = vfma(q, a, VF(1.6348956703736634e-4f));
  const VF large = vcopysign(VF(1.0f) - vexp(q), x);
  return vpick_below(a, 0.9f, large, small);
}

}  // namespace
}  // namespace DPG_NS
}  // namespace dpg
