#define DPG_NS isa_avx512bf16
#define DPG_ISA_NAME "avx512bf16"
#define DPG_BF16_DOT
#include "cpu/vec_avx512.h"
// The SIMD type comes first: the kernels are templates over it.
#include "cpu/kernels.h"

namespace dpg {
namespace cpu {
const Kernels& kernels_avx512bf16() { return isa_avx512bf16::kTable; }
}  // namespace cpu
}  // namespace dpg
