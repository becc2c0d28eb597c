#include "cpu/cpuid.h"

#include <cstdint>
#include <cstring>

#if defined(DPG_X86)
#include <cpuid.h>
#endif

namespace dpg {
namespace cpu {

#if defined(DPG_X86)
namespace {
uint64_t read_xcr0() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}
bool bit(uint32_t word, int index) { return (word >> index) & 1u; }
}  // namespace

Features detect_features() {
  Features f;
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
  const bool osxsave = bit(c, 27), avx = bit(c, 28), fma = bit(c, 12), f16c = bit(c, 29);
  if (!osxsave || !avx) return f;
  const uint64_t xcr0 = read_xcr0();
  const bool ymm = (xcr0 & 0x6) == 0x6;     // SSE and AVX state
  const bool zmm = (xcr0 & 0xe6) == 0xe6;   // and opmask, upper ZMM, ZMM16-31
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  const uint32_t max_subleaf = a;
  f.avx2 = ymm && bit(b, 5) && fma && f16c;
  f.avx512 = f.avx2 && zmm && bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31);  // F, DQ, BW, VL
  if (f.avx512 && max_subleaf >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) f.avx512bf16 = bit(a, 5);
  return f;
}
std::string vendor() {
  uint32_t a, b, c, d;
  if (!__get_cpuid(0, &a, &b, &c, &d)) return "";
  const uint32_t words[3] = {b, d, c};
  char text[12];
  std::memcpy(text, words, sizeof text);
  return std::string(text, sizeof text);
}
#else
Features detect_features() { return {}; }
std::string vendor() { return ""; }
#endif

}  // namespace cpu
}  // namespace dpg
