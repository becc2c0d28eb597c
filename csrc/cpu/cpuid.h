// Instruction sets usable here: the processor has them and the operating system saves their registers.
#pragma once
#include <string>

namespace dpg {
namespace cpu {

struct Features {
  bool avx2 = false, avx512 = false, avx512bf16 = false;
};
Features detect_features();

std::string vendor();  // as x86 processors report it, "" elsewhere

}  // namespace cpu
}  // namespace dpg
