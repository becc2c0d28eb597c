// The Python module dpg_fast._C. The hot functions take torch tensors (view.h). They answer False for anything they do not
// serve, having touched nothing; the Python side then explains or takes another way.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <exception>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/cpuid.h"
#include "cpu/driver.h"
#include "view.h"

namespace py = pybind11;
using namespace dpg;

#if defined(DPG_CUDA)
namespace dpg {
void bind_cuda(py::module_& m);  // bindings_cuda.cpp
}
#endif

namespace {

// A call at least this large (multiply-adds) releases the GIL.
constexpr double kReleaseWork = 4e6;

PyObject* finish(cpu::Status status) {
  if (status == cpu::Status::bad_slot) {
    PyErr_SetString(PyExc_IndexError, "slots must lie in [-1, rows of the code or strength table)");
    return nullptr;
  }
  Py_RETURN_TRUE;
}

template <class Fn>
PyObject* call(double work, const Fn& fn) {
  cpu::Status status;
  try {
    if (work >= kReleaseWork) {
      py::gil_scoped_release release;
      status = fn();
    } else {
      status = fn();
    }
  } catch (const std::exception&) {  // scratch: bad_alloc or length_error
    return PyErr_NoMemory();
  }
  return finish(status);
}

bool scale_of(PyObject* object, float* out) {
  const double value = PyFloat_AsDouble(object);
  if (value == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    return false;
  }
  *out = static_cast<float>(value);
  return true;
}

// (y, x, A, B, codes_a, codes_b, slots, scale)
PyObject* py_lora_add(PyObject*, PyObject* const* a, Py_ssize_t n) {
  View y, x, A, B, ca, cb, slots;
  if (n != 8 || !g_torch.api || !y.read(a[0]) || !x.read(a[1]) || !A.read(a[2]) || !B.read(a[3]) || !ca.read(a[4]) ||
      !cb.read(a[5]) || !slots.read(a[6]))
    Py_RETURN_FALSE;
  DType type;
  cpu::Matrix ym, xm, bm;
  int64_t ty, tx, d_in, d_out, K, r, db, sa, sb;
  float scale;
  if (!y.float_type(&type) || !y.same_type(x) || !y.same_type(A) || !y.same_type(B) || !y.written_rows(&ty, &d_out, &ym) ||
      !x.rows(&tx, &d_in, &xm) || ty != tx || !B.bank(&K, &r, &db, &bm) || db != d_out || A.ndim != 3 ||
      A.shape[0] != K || A.shape[1] != r || A.shape[2] != d_in || !A.contiguous() || !ca.table(&sa, K) ||
      !cb.table(&sb, K) || sa != sb || !slots.slot_list(ty) || !scale_of(a[7], &scale) || !y.apart(A, B, ca, cb, slots) ||
      !(y.apart(x) || side_by_side(ym, d_out, xm, d_in, y.dtype.bits / 8)))
    Py_RETURN_FALSE;
  return call(1.0 * ty * K * r * (d_in + d_out), [&] {
    return cpu::lora_add(type, ym, xm, A.data, bm, {static_cast<float*>(ca.data), sa}, {static_cast<float*>(cb.data), sb},
                         static_cast<int32_t*>(slots.data), scale, ty, K, r, d_in, d_out);
  });
}

// (u, x, A, codes, slots): u float32 [T, r] or [G, T, r]
PyObject* py_lora_shrink(PyObject*, PyObject* const* a, Py_ssize_t n) {
  View u, x, A, codes, slots;
  if (n != 5 || !g_torch.api || !u.read(a[0]) || !x.read(a[1]) || !A.read(a[2]) || !codes.read(a[3]) || !slots.read(a[4]))
    Py_RETURN_FALSE;
  DType type;
  cpu::Matrix xm;
  int64_t T, d, S;
  const int lead = A.ndim - 3;
  if ((lead != 0 && lead != 1) || !x.float_type(&type) || !x.same_type(A) || !x.rows(&T, &d, &xm) || !A.contiguous())
    Py_RETURN_FALSE;
  const int64_t groups = lead ? A.shape[0] : 1, K = A.shape[lead], r = A.shape[lead + 1];
  if (A.shape[lead + 2] != d || !codes.table(&S, K) || !slots.slot_list(T) || !u.is(dlpack::kFloat, 32) ||
      !u.contiguous() || u.ndim != 2 + lead || u.shape[lead] != T || u.shape[lead + 1] != r ||
      (lead && u.shape[0] != groups))
    Py_RETURN_FALSE;
  return call(1.0 * T * groups * K * r * d, [&] {
    return cpu::lora_shrink(type, xm, A.data, {static_cast<float*>(codes.data), S}, static_cast<int32_t*>(slots.data),
                            static_cast<float*>(u.data), T, groups, K, r, d);
  });
}

// (u, S, codes, slots): u float32 [T, r] or [G, T, r], S [..., G * K * r]
PyObject* py_lora_combine(PyObject*, PyObject* const* a, Py_ssize_t n) {
  View u, S, codes, slots;
  if (n != 4 || !g_torch.api || !u.read(a[0]) || !S.read(a[1]) || !codes.read(a[2]) || !slots.read(a[3])) Py_RETURN_FALSE;
  DType type;
  cpu::Matrix sm;
  int64_t T, width, rows;
  const int lead = u.ndim - 2;
  if ((lead != 0 && lead != 1) || codes.ndim != 2 || !S.float_type(&type) || !S.rows(&T, &width, &sm) ||
      !u.is(dlpack::kFloat, 32) || !u.contiguous() || u.shape[lead] != T || !codes.table(&rows, codes.shape[1]) ||
      !slots.slot_list(T))
    Py_RETURN_FALSE;
  const int64_t groups = lead ? u.shape[0] : 1, K = codes.shape[1], r = u.shape[lead + 1];
  if (1.0 * groups * K * r != width) Py_RETURN_FALSE;
  return call(1.0 * T * width, [&] {
    return cpu::lora_combine(type, sm, {static_cast<float*>(codes.data), rows}, static_cast<int32_t*>(slots.data),
                             static_cast<float*>(u.data), T, groups, K, r);
  });
}

// (y, S, B, codes_a, codes_b, slots, widths, scale): widths, a tuple of ints, add up to B's columns
PyObject* py_lora_stacked_add(PyObject*, PyObject* const* a, Py_ssize_t n) {
  View y, S, B, ca, cb, slots;
  if (n != 8 || !g_torch.api || !y.read(a[0]) || !S.read(a[1]) || !B.read(a[2]) || !ca.read(a[3]) || !cb.read(a[4]) ||
      !slots.read(a[5]) || !PyTuple_CheckExact(a[6]))
    Py_RETURN_FALSE;
  constexpr Py_ssize_t kMaxGroups = 8;
  const Py_ssize_t groups = PyTuple_GET_SIZE(a[6]);
  if (groups < 1 || groups > kMaxGroups) Py_RETURN_FALSE;
  int64_t ends[kMaxGroups], total = 0;
  for (Py_ssize_t g = 0; g < groups; ++g) {
    const long width = PyLong_AsLong(PyTuple_GET_ITEM(a[6], g));
    if (width == -1 && PyErr_Occurred()) PyErr_Clear();
    if (width < 0 || width > INT64_MAX - total) Py_RETURN_FALSE;
    ends[g] = total += width;
  }
  DType type;
  cpu::Matrix ym, sm, bm;
  int64_t ty, ts, d, ws, K, r, db, sa, sb;
  float scale;
  if (!y.float_type(&type) || !y.same_type(S) || !y.same_type(B) || !y.written_rows(&ty, &d, &ym) || !S.rows(&ts, &ws, &sm) ||
      ts != ty || d != total || !B.bank(&K, &r, &db, &bm) || db != d || ws != groups * K * r || !ca.table(&sa, K) ||
      !cb.table(&sb, K) || sa != sb || !slots.slot_list(ty) || !scale_of(a[7], &scale) ||
      !y.apart(B, ca, cb, slots) || !(y.apart(S) || side_by_side(ym, d, sm, ws, y.dtype.bits / 8)))
    Py_RETURN_FALSE;
  return call(1.0 * ty * K * r * d, [&] {
    return cpu::lora_stacked_add(type, ym, sm, bm, {static_cast<float*>(ca.data), sa},
                                 {static_cast<float*>(cb.data), sb}, static_cast<int32_t*>(slots.data), ends, groups,
                                 scale, ty, K, r);
  });
}

// (y, u, B, codes, slots, scale)
PyObject* py_lora_expand_add(PyObject*, PyObject* const* a, Py_ssize_t n) {
  View y, u, B, codes, slots;
  if (n != 6 || !g_torch.api || !y.read(a[0]) || !u.read(a[1]) || !B.read(a[2]) || !codes.read(a[3]) || !slots.read(a[4]))
    Py_RETURN_FALSE;
  DType type;
  cpu::Matrix ym, bm;
  int64_t T, d, K, r, db, S, tu;
  float scale;
  if (!y.float_type(&type) || !y.same_type(B) || !y.written_rows(&T, &d, &ym) || !B.bank(&K, &r, &db, &bm) || db != d ||
      !u.table(&tu, r) || tu != T || !codes.table(&S, K) || !slots.slot_list(T) || !scale_of(a[5], &scale) ||
      !y.apart(u, B, codes, slots))
    Py_RETURN_FALSE;
  return call(1.0 * T * K * r * d, [&] {
    return cpu::lora_expand_add(type, ym, static_cast<float*>(u.data), bm, {static_cast<float*>(codes.data), S},
                                static_cast<int32_t*>(slots.data), scale, T, K, r, d);
  });
}

// None, or (u_gate, B_gate, u_up, B_up, codes, slots, scale), where u_up None means that u_gate holds both, [2, T, r].
bool read_lora(PyObject* object, const View& gate, int64_t T, int64_t width, cpu::GatedLora* lora) {
  if (object == Py_None) return true;
  if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) != 7) return false;
  const auto item = [&](int i) { return PyTuple_GET_ITEM(object, i); };
  View ug, bg, uu, bu, codes, slots;
  const bool packed = item(2) == Py_None;
  if (!ug.read(item(0)) || !bg.read(item(1)) || (!packed && !uu.read(item(2))) || !bu.read(item(3)) ||
      !codes.read(item(4)) || !slots.read(item(5)))
    return false;
  int64_t K2, r2, dg, du, count;
  if (!bg.bank(&lora->K, &lora->r, &dg, &lora->gate.B) || !bu.bank(&K2, &r2, &du, &lora->up.B) || K2 != lora->K ||
      r2 != lora->r || dg != width || du != width || !bg.same_type(gate) || !bu.same_type(gate) ||
      !codes.table(&lora->codes.rows, lora->K) || !slots.slot_list(T) || !scale_of(item(6), &lora->scale))
    return false;
  lora->gate.u = static_cast<float*>(ug.data);
  if (packed) {
    if (ug.ndim != 3 || ug.shape[0] != 2 || ug.shape[1] != T || ug.shape[2] != lora->r || !ug.is(dlpack::kFloat, 32) ||
        !ug.contiguous())
      return false;
    lora->up.u = lora->gate.u + T * lora->r;
  } else {
    if (!ug.table(&count, lora->r) || count != T || !uu.table(&count, lora->r) || count != T) return false;
    lora->up.u = static_cast<float*>(uu.data);
  }
  lora->codes.data = static_cast<float*>(codes.data);
  lora->slots = static_cast<int32_t*>(slots.data);
  return true;
}

// None, or (clamp_mask, add, strengths, slots).
bool read_steering(PyObject* object, int64_t T, int64_t width, cpu::Steering* steering) {
  if (object == Py_None) return true;
  if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) != 4) return false;
  const auto item = [&](int i) { return PyTuple_GET_ITEM(object, i); };
  View mask, add, strengths, slots;
  if (!mask.read(item(0)) || !add.read(item(1)) || !strengths.read(item(2)) || !slots.read(item(3))) return false;
  int64_t poles;
  if (mask.ndim != 1 || mask.shape[0] != width || !mask.is(dlpack::kInt, 16) || !mask.contiguous() ||
      !add.table(&poles, width) || poles != kPoles || !strengths.table(&steering->strengths.rows, kPoles) ||
      !slots.slot_list(T))
    return false;
  steering->clamp_mask = static_cast<int16_t*>(mask.data);
  steering->add = static_cast<float*>(add.data);
  steering->strengths.data = static_cast<float*>(strengths.data);
  steering->slots = static_cast<int32_t*>(slots.data);
  return true;
}

// The first of some [..., width] tensors of one type, and whether another has its shape.
struct Shaped {
  DType type;
  cpu::Matrix rows;
  int64_t T, width;
  bool read(const View& first) { return first.float_type(&type) && first.rows(&T, &width, &rows); }
  bool like(const View& first, const View& other, cpu::Matrix* out) const {
    int64_t t, w;
    return first.same_type(other) && other.rows(&t, &w, out) && t == T && w == width;
  }
};

long act_of(PyObject* object) {
  const long act = PyLong_AsLong(object);
  if (act == -1 && PyErr_Occurred()) PyErr_Clear();
  return act < kActs ? act : -1;
}

// (h, gate, up, act, lora, steering)
PyObject* py_steered_gated_act(PyObject*, PyObject* const* a, Py_ssize_t n) {
  View h, gate, up;
  if (n != 6 || !g_torch.api || !h.read(a[0]) || !gate.read(a[1]) || !up.read(a[2])) Py_RETURN_FALSE;
  Shaped s;
  cpu::Matrix hm, um;
  cpu::GatedLora lora{};
  cpu::Steering steering{};
  const long act = act_of(a[3]);
  if (act < 0 || !s.read(gate) || !s.like(gate, up, &um) || !s.like(gate, h, &hm) ||
      !read_lora(a[4], gate, s.T, s.width, &lora) || !read_steering(a[5], s.T, s.width, &steering))
    Py_RETURN_FALSE;
  return call(1.0 * s.T * s.width * (2 * lora.K * lora.r + 16), [&] {
    return cpu::steered_gated_act(s.type, static_cast<Act>(act), s.rows, um, hm, a[4] != Py_None ? &lora : nullptr,
                                  a[5] != Py_None ? &steering : nullptr, nullptr, s.T, s.width);
  });
}

// (g_gate, g_up, g_v or None, gh, gate, up, act, lora, steering)
PyObject* py_steered_gated_act_grad(PyObject*, PyObject* const* a, Py_ssize_t n) {
  View g_gate, g_up, g_v, gh, gate, up;
  if (n != 9 || !g_torch.api || !g_gate.read(a[0]) || !g_up.read(a[1]) || (a[2] != Py_None && !g_v.read(a[2])) ||
      !gh.read(a[3]) || !gate.read(a[4]) || !up.read(a[5]))
    Py_RETURN_FALSE;
  Shaped s;
  cpu::Matrix out, um;
  cpu::GatedGrad grad{};
  cpu::GatedLora lora{};
  cpu::Steering steering{};
  const long act = act_of(a[6]);
  if (act < 0 || !s.read(gate) || !s.like(gate, up, &um) || !s.like(gate, g_gate, &out) ||
      !s.like(gate, g_up, &grad.up) || (a[2] != Py_None && !s.like(gate, g_v, &grad.v)) || !s.like(gate, gh, &grad.h) ||
      !read_lora(a[7], gate, s.T, s.width, &lora) || !read_steering(a[8], s.T, s.width, &steering))
    Py_RETURN_FALSE;
  return call(1.0 * s.T * s.width * (2 * lora.K * lora.r + 24), [&] {
    return cpu::steered_gated_act(s.type, static_cast<Act>(act), s.rows, um, out, a[7] != Py_None ? &lora : nullptr,
                                  a[8] != Py_None ? &steering : nullptr, &grad, s.T, s.width);
  });
}

// (h, out, y, residual, weight, eps, unit_offset, lora): lora None or (u, B, codes, slots, scale)
PyObject* py_add_rmsnorm(PyObject*, PyObject* const* a, Py_ssize_t n) {
  View h, out, y, residual, weight;
  if (n != 8 || !g_torch.api || !h.read(a[0]) || !out.read(a[1]) || !y.read(a[2]) || !residual.read(a[3]) ||
      !weight.read(a[4]))
    Py_RETURN_FALSE;
  Shaped s;
  cpu::Matrix hm, om, rm;
  float eps;
  if (!PyBool_Check(a[6]) || !s.read(y) || !s.like(y, residual, &rm) || !s.like(y, h, &hm) || !s.like(y, out, &om) ||
      weight.ndim != 1 || weight.shape[0] != s.width || !weight.same_type(y) || !weight.contiguous() ||
      !scale_of(a[5], &eps))
    Py_RETURN_FALSE;
  cpu::RideAlong lora{};
  const bool has_lora = a[7] != Py_None;
  if (has_lora) {
    if (!PyTuple_Check(a[7]) || PyTuple_GET_SIZE(a[7]) != 5) Py_RETURN_FALSE;
    const auto item = [&](int i) { return PyTuple_GET_ITEM(a[7], i); };
    View u, B, codes, slots;
    int64_t d, tokens;
    if (!u.read(item(0)) || !B.read(item(1)) || !codes.read(item(2)) || !slots.read(item(3)) || !B.same_type(y) ||
        !B.bank(&lora.K, &lora.r, &d, &lora.B) || d != s.width || !u.table(&tokens, lora.r) || tokens != s.T ||
        !codes.table(&lora.codes.rows, lora.K) || !slots.slot_list(s.T) || !scale_of(item(4), &lora.scale))
      Py_RETURN_FALSE;
    lora.u = static_cast<float*>(u.data);
    lora.codes.data = static_cast<float*>(codes.data);
    lora.slots = static_cast<int32_t*>(slots.data);
  }
  return call(1.0 * s.T * s.width * (lora.K * lora.r + 8), [&] {
    return cpu::add_rmsnorm(s.type, s.rows, rm, weight.data, eps, a[6] == Py_True, has_lora ? &lora : nullptr, hm, om,
                            s.T, s.width);
  });
}

// (gate, act, slots, edges, positive, histogram)
PyObject* py_activation_stats(PyObject*, PyObject* const* a, Py_ssize_t n) {
  View gate, slots, edges, positive, histogram;
  if (n != 6 || !g_torch.api || !gate.read(a[0]) || !slots.read(a[2]) || !edges.read(a[3]) || !positive.read(a[4]) ||
      !histogram.read(a[5]))
    Py_RETURN_FALSE;
  DType type;
  cpu::Matrix gm;
  int64_t T, width;
  const long act = act_of(a[1]);
  const bool wide = histogram.is(dlpack::kInt, 64);
  if (act < 0 || !gate.float_type(&type) || !gate.rows(&T, &width, &gm) || !slots.slot_list(T) ||
      edges.ndim != 1 || edges.shape[0] < 1 || !edges.is(dlpack::kFloat, 32) || !edges.contiguous() ||
      positive.ndim != 2 || positive.shape[1] != width || !positive.is(dlpack::kInt, 64) || !positive.contiguous() ||
      histogram.ndim != 3 || histogram.shape[0] != positive.shape[0] || histogram.shape[1] != width ||
      histogram.shape[2] != edges.shape[0] + 1 || !(wide || histogram.is(dlpack::kInt, 32)) || !histogram.contiguous() ||
      !positive.writable() || !histogram.writable() || !positive.apart(gate, slots, edges, histogram) ||
      !histogram.apart(gate, slots, edges))
    Py_RETURN_FALSE;
  return call(1.0 * T * width * 16, [&] {
    return cpu::activation_stats(type, static_cast<Act>(act), gm, static_cast<int32_t*>(slots.data),
                                 static_cast<float*>(edges.data), edges.shape[0] + 1,
                                 static_cast<int64_t*>(positive.data), histogram.data, wide, positive.shape[0], T, width);
  });
}

PyMethodDef kHot[] = {
    {"lora_add", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(py_lora_add)), METH_FASTCALL, nullptr},
    {"lora_shrink", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(py_lora_shrink)), METH_FASTCALL, nullptr},
    {"lora_combine", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(py_lora_combine)), METH_FASTCALL, nullptr},
    {"lora_stacked_add", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(py_lora_stacked_add)), METH_FASTCALL,
     nullptr},
    {"lora_expand_add", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(py_lora_expand_add)), METH_FASTCALL,
     nullptr},
    {"steered_gated_act", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(py_steered_gated_act)), METH_FASTCALL,
     nullptr},
    {"steered_gated_act_grad", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(py_steered_gated_act_grad)),
     METH_FASTCALL, nullptr},
    {"add_rmsnorm", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(py_add_rmsnorm)), METH_FASTCALL, nullptr},
    {"activation_stats", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(py_activation_stats)), METH_FASTCALL,
     nullptr},
    {nullptr, nullptr, 0, nullptr},
};

// Learns the tensor types, the exchange table and where a tensor keeps its fields: `samples` holds (tensor, address of
// its TensorImpl, dispatch keys, address of its StorageImpl, address and bytes of its memory), the first a dense CPU tensor.
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
    known.push_back({object.ptr(), reinterpret_cast<void*>(impl), reinterpret_cast<void*>(storage), keys, base, bytes});
  if (!learn_fields(known, &torch)) return "keeps the fields of its tensors where this version does not find them";
  torch.plain = known.front().keys;
  torch.api = api;
  for (const py::object& kept : {tensor, parameter, in_inference_mode}) kept.inc_ref();
  g_torch = torch;
  return "";
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of dpg_fast";
  PyModule_AddFunctions(m.ptr(), kHot);
  m.def("bind_torch", &bind_torch);
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
