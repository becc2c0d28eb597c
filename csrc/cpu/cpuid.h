// Instruction sets usable here: the processor has them and the operating system saves their registers.
#pragma once

namespace dpg {
namespace cpu {

struct Features {
  bool avx2 = false, avx512 = false, avx512bf16 = false;
};
Features detect_features();

}  // namespace cpu
}  // namespace dpg
