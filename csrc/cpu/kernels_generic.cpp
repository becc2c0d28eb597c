#define DPG_NS isa_generic
#define DPG_ISA_NAME "generic"
#include "cpu/vec_generic.h"
// The SIMD type comes first: the kernels are templates over it.
#include "cpu/kernels.h"

namespace dpg {
namespace cpu {
const Kernels& kernels_generic() { return isa_generic::kTable; }
}  // namespace cpu
}  // namespace dpg
