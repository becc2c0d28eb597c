// Where a call's tensors lie and who serves them there: the CPU kernels, or the CUDA launchers of cuda_api.h through a
// table, which is filled with those linked in (DPG_CUDA) or, by the tests, with others of the same prototypes.
#pragma once
#include <pybind11/pybind11.h>

#include "dpg/cuda_api.h"
#include "view.h"

namespace dpg {

#define DPG_LAUNCHERS(X) \
  X(lora_shrink) X(lora_combine) X(lora_expand_add) X(lora_add) X(lora_stacked_add) X(steered_gated_act) X(add_rmsnorm) \
  X(activation_stats) X(error_text)

struct Launchers {
#define DPG_MEMBER(name) decltype(&dpg_cuda_##name) name;
  DPG_LAUNCHERS(DPG_MEMBER)
#undef DPG_MEMBER
};

struct Serving {
  bool cpu, cuda;         // whether calls may go to the kernels of each
  Launchers run;          // null: no CUDA kernels
  int32_t device_type;    // of the tensors that the launchers take
  uint64_t devices;       // bit i: that device was found to be able to run them
  // Python functions: () -> int, (device) -> address of the stream, (tensor like it, rows, width) -> float32 [rows, width]
  PyObject *current_device, *current_stream, *scratch;
};
inline Serving g_serving{true, false, {}, dlpack::kCUDA, 0, nullptr, nullptr, nullptr};

enum class Place { none, cpu, cuda };

// The device of a call: that of the first tensor read, which the others must share.
class Site {
 public:
  bool read(View& view, PyObject* object) {
    if (!view.read(object)) return false;
    if (!known_) {
      device_ = view.device;
      known_ = true;
    }
    return view.device.type == device_.type && view.device.id == device_.id;
  }

  template <class... Views>
  bool read_all(PyObject* const* objects, Views&... views) {
    return (read(views, *objects++) && ...);
  }

  // CUDA only on the current device: a launch elsewhere needs that made current first.
  Place place() const {
    const Serving& s = g_serving;
    if (s.cuda && s.run.lora_add && device_.type == s.device_type)
      return device_.id < 64 && (s.devices >> device_.id & 1) && is_current() ? Place::cuda : Place::none;
    return s.cpu && device_.type == dlpack::kCPU ? Place::cpu : Place::none;
  }

  // Calls fn(stream), which returns a cudaError_t, without the GIL: the driver may wait for room in its queue.
  template <class Fn>
  PyObject* launch(const char* name, const Fn& fn) const {
    PyObject* index = PyLong_FromLong(device_.id);
    PyObject* answer = index ? PyObject_CallOneArg(g_serving.current_stream, index) : nullptr;
    Py_XDECREF(index);
    if (!answer) return nullptr;
    void* stream = PyLong_AsVoidPtr(answer);
    Py_DECREF(answer);
    if (!stream && PyErr_Occurred()) return nullptr;
    int error;
    {
      pybind11::gil_scoped_release release;
      error = fn(stream);
    }
    if (error == 0) Py_RETURN_TRUE;
    return PyErr_Format(PyExc_RuntimeError, "%s: %s", name, g_serving.run.error_text(error));
  }

 private:
  bool is_current() const {
    PyObject* answer = PyObject_CallNoArgs(g_serving.current_device);
    const long index = answer ? PyLong_AsLong(answer) : -1;
    if (PyErr_Occurred()) PyErr_Clear();
    Py_XDECREF(answer);
    return index == device_.id;
  }

  dlpack::Device device_{};
  bool known_ = false;
};

}  // namespace dpg
