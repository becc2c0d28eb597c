#define DPG_NS isa_avx2
#define DPG_ISA_NAME "avx2"
#include "cpu/vec_avx2.h"
// The SIMD type comes first: the kernels are templates over it.
#include "cpu/kernels.h"

namespace dpg {
namespace cpu {
const Kernels& kernels_avx2() { return isa_avx2::kTable; }
}  // namespace cpu
}  // namespace dpg
