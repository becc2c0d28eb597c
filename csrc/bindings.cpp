// The Python module dpg_fast._C: what it learns of torch and of its surroundings. Its ops: bindings_ops.cpp.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/cpuid.h"
#include "cpu/driver.h"
#include "launchers.h"
#include "view.h"

namespace py = pybind11;
using namespace dpg;

namespace dpg {
void bind_ops(py::module_& m);      // bindings_ops.cpp
#if defined(DPG_CUDA)
void bind_cuda(py::module_& m);     // bindings_cuda.cpp
#endif
}

namespace {

// Learns the tensor types, the exchange table and where a tensor keeps its fields: `samples` holds (tensor, address of
// its TensorImpl, dispatch keys, address of its StorageImpl, address and bytes of its memory) of
// float32 vectors, the first a dense CPU tensor.
// Empty, or why this torch cannot be read.
std::string bind_torch(py::object tensor, py::object parameter, py::object in_inference_mode,
                       const std::vector<std::tuple<py::object, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t>>& samples) {
  g_torch = {};
  const std::string no_table = "has no DLPack C exchange table of version 1";
  if (!py::hasattr(tensor, "__dlpack_c_exchange_api__")) return no_table;
  py::object capsule = tensor.attr("__dlpack_c_exchange_api__");
  const auto* api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!api) PyErr_Clear();
  while (api && api->header.version.major != 1)
    api = reinterpret_cast<const dlpack::ExchangeApi*>(api->header.previous);
  if (!api || !api->tensor_from_object) return no_table;
  Torch torch{};
  torch.tensor = reinterpret_cast<PyTypeObject*>(tensor.ptr());
  torch.parameter = reinterpret_cast<PyTypeObject*>(parameter.ptr());
  torch.in_inference_mode = in_inference_mode.ptr();
  std::vector<Sample> known;
  for (const auto& [object, impl, keys, storage, base, bytes] : samples)
    known.push_back({object.ptr(), reinterpret_cast<void*>(impl), reinterpret_cast<void*>(storage), keys, base, bytes,
                     bytes / sizeof(float)});
  if (!learn_fields(known, &torch)) return "keeps the fields of its tensors where this version does not find them";
  torch.plain = known.front().keys;
  torch.api = api;
  for (const py::object& kept : {tensor, parameter, in_inference_mode}) kept.inc_ref();
  g_torch = torch;
  return "";
}

// Who launches CUDA kernels: addresses by name of functions of cuda_api.h (none: those linked in, or nobody), for tensors
// in memory of this DLPack device type. No device is admitted then. See Serving for the Python functions.
void bind_launchers(const std::map<std::string, uint64_t>& addresses, int32_t device_type, py::object current_device,
                    py::object current_stream, py::object scratch) {
  Launchers run{};
  if (addresses.empty()) {
#if defined(DPG_CUDA)
    run = {
#define DPG_LINKED(name) dpg_cuda_##name,
        DPG_LAUNCHERS(DPG_LINKED)
#undef DPG_LINKED
    };
#endif
  } else {
#define DPG_GIVEN(name) run.name = reinterpret_cast<decltype(run.name)>(addresses.at(#name));
    DPG_LAUNCHERS(DPG_GIVEN)
#undef DPG_GIVEN
  }
  // Kept for good: a call may be under way in another thread.
  for (const py::object& kept : {current_device, current_stream, scratch}) kept.inc_ref();
  g_serving = {g_serving.cpu, g_serving.cuda, run, device_type, 0, current_device.ptr(), current_stream.ptr(), scratch.ptr()};
  g_torch.plain_cuda = 0;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of dpg_fast";
  bind_ops(m);
  m.def("bind_torch", &bind_torch);
  m.def("bind_launchers", &bind_launchers);
  m.def("serve", [](bool cpu, bool cuda) { g_serving.cpu = cpu, g_serving.cuda = cuda; });
  m.def("admit", [](int index, uint64_t keys) {
    g_torch.plain_cuda = keys;
    if (index >= 0 && index < 64) g_serving.devices |= uint64_t{1} << index;
  });
  m.def("compiled_isas", &cpu::compiled_isas);
  m.def("supported_isas", &cpu::supported_isas);
  m.def("current_isa", &cpu::current_isa);
  m.def("set_isa", &cpu::set_isa);
  m.def("parallel_threshold", &cpu::parallel_threshold);
  m.def("set_parallel_threshold", &cpu::set_parallel_threshold);
  m.attr("cpu_vendor") = cpu::vendor();
  m.attr("compiler") = DPG_COMPILER;
  m.attr("cuda_archs") = DPG_CUDA_ARCHS;
  m.attr("version") = DPG_VERSION;
#if defined(_OPENMP) || defined(DPG_OPENMP)
  m.attr("openmp") = true;
#else
  m.attr("openmp") = false;
#endif
#if defined(DPG_CUDA)
  bind_cuda(m);
#endif
#if defined(DPG_SANITIZE)
  m.def("write_behind", [](int64_t bytes) {
    const std::unique_ptr<char[]> memory(new char[bytes]);
    const_cast<volatile char*>(memory.get())[bytes] = 1;
  });
  m.def("add_one", [](int64_t number) { return number + 1; });
#endif
}
