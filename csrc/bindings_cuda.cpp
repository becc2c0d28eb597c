// The CUDA launchers for Python: device addresses and the stream as integers, 0 for none. The caller has checked shapes,
// dtypes and the device. A failed launch raises RuntimeError.
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "dpg/cuda_api.h"

namespace py = pybind11;

namespace {

template <class A>
struct Passed {
  using type = A;
  static A to(type value) { return value; }
};
template <class P>
struct Passed<P*> {
  using type = uintptr_t;
  static P* to(type address) { return reinterpret_cast<P*>(address); }
};

template <class... A>
void add(py::module_& m, const char* name, int (*launcher)(A...)) {
  m.def(name, [name, launcher](typename Passed<A>::type... args) {
    const int error = launcher(Passed<A>::to(args)...);
    if (error != 0) throw std::runtime_error(std::string(name) + ": " + dpg_cuda_error_text(error));
  });
}

}  // namespace

namespace dpg {

void bind_cuda(py::module_& m) {
  add(m, "cuda_lora_shrink", dpg_cuda_lora_shrink);
  add(m, "cuda_lora_combine", dpg_cuda_lora_combine);
  add(m, "cuda_lora_stacked_add", dpg_cuda_lora_stacked_add);
  add(m, "cuda_lora_expand_add", dpg_cuda_lora_expand_add);
  add(m, "cuda_lora_add", dpg_cuda_lora_add);
  add(m, "cuda_steered_gated_act", dpg_cuda_steered_gated_act);
  add(m, "cuda_add_rmsnorm", dpg_cuda_add_rmsnorm);
  add(m, "cuda_activation_stats", dpg_cuda_activation_stats);
}

}  // namespace dpg
