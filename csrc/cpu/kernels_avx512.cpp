#define DPG_NS isa_avx512
#define DPG_ISA_NAME "avx512"
#include "cpu/vec_avx512.h"
// The SIMD type comes first: the kernels are templates over it.
#include "cpu/kernels.h"

namespace dpg {
namespace cpu {
const Kernels& kernels_avx512() { return isa_avx512::kTable; }
}  // namespace cpu
}  // namespace dpg
