// Plain types shared by host and device code. No functions here, so every translation unit may include it.
#pragma once
#include <cstdint>

namespace dpg {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

enum DType : int { kF32 = 0, kBF16 = 1, kF16 = 2, kDTypes = 3 };
enum Act : int { kSilu = 0, kGeluTanh = 1, kGelu = 2, kActs = 3 };

constexpr int kPoles = 10;  // five traits, two poles each

// Strengths of one token, compacted to the poles that are active (strength > 0), in pole order.
struct SteerRow {
  int32_t bits;  // bit p set: pole p is active
  int32_t count;
  int32_t pole[kPoles];
  float strength[kPoles];
};

}  // namespace dpg
