// The hot functions of dpg_fast._C: one per op, of torch tensors (view.h) in CPU or in CUDA memory. They answer False for
// anything they do not serve, having touched nothing; the Python side then explains or takes another way.
#include <pybind11/pybind11.h>

#include <exception>

#include "cpu/driver.h"
#include "launchers.h"
#include "view.h"

namespace py = pybind11;
using namespace dpg;

namespace {

// A call of a CPU kernel at least this large (multiply-adds) releases the GIL.
constexpr double kReleaseWork = 4e6;

// What the CUDA shrink combines at most.
constexpr int64_t kMaxEntries = 64;

// Whether the kernels there take a bank of K entries of rank r: those for CUDA need one that is not empty.
bool takes_bank(Place place, int64_t K, int64_t r, int64_t most = INT64_MAX) {
  return place != Place::none && (place == Place::cpu || (K > 0 && r > 0 && K <= most));
}

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
  Site at;
  View y, x, A, B, ca, cb, slots;
  if (n != 8 || !g_torch.api || !at.read_all(a, y, x, A, B, ca, cb, slots))
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
  const Place place = at.place();
  if (!takes_bank(place, K, r, kMaxEntries)) Py_RETURN_FALSE;
  if (place == Place::cuda) {
    View u;
    const py::object scratch = py::reinterpret_steal<py::object>(
        PyObject_CallFunction(g_serving.scratch, "OLL", a[0], static_cast<long long>(ty), static_cast<long long>(r)));
    if (!scratch) return nullptr;
    if (!at.read(u, scratch.ptr())) Py_RETURN_FALSE;
    return at.launch("lora_add", [&](void* stream) {
      return g_serving.run.lora_add(type, ym.data, ym.ld, xm.data, xm.ld, A.data, bm.data, bm.ld, ca.data, cb.data,
          sa, slots.data, u.data, scale, ty, K, r, d_in, d_out, stream);
    });
  }
  return call(1.0 * ty * K * r * (d_in + d_out), [&] {
    return cpu::lora_add(type, ym, xm, A.data, bm, {static_cast<float*>(ca.data), sa}, {static_cast<float*>(cb.data), sb},
                         static_cast<int32_t*>(slots.data), scale, ty, K, r, d_in, d_out);
  });
}

// (u, x, A, codes, slots): u float32 [T, r] or [G, T, r]
PyObject* py_lora_shrink(PyObject*, PyObject* const* a, Py_ssize_t n) {
  Site at;
  View u, x, A, codes, slots;
  if (n != 5 || !g_torch.api || !at.read_all(a, u, x, A, codes, slots))
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
  const Place place = at.place();
  if (!takes_bank(place, K, r, kMaxEntries)) Py_RETURN_FALSE;
  if (place == Place::cuda)
    return at.launch("lora_shrink", [&](void* stream) {
      return g_serving.run.lora_shrink(type, xm.data, xm.ld, A.data, codes.data, S, slots.data, u.data, T, groups, K,
          r, d, stream);
    });
  return call(1.0 * T * groups * K * r * d, [&] {
    return cpu::lora_shrink(type, xm, A.data, {static_cast<float*>(codes.data), S}, static_cast<int32_t*>(slots.data),
                            static_cast<float*>(u.data), T, groups, K, r, d);
  });
}

// (u, S, codes, slots): u float32 [T, r] or [G, T, r], S [..., G * K * r]
PyObject* py_lora_combine(PyObject*, PyObject* const* a, Py_ssize_t n) {
  Site at;
  View u, S, codes, slots;
  if (n != 4 || !g_torch.api || !at.read_all(a, u, S, codes, slots)) Py_RETURN_FALSE;
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
  const Place place = at.place();
  if (!takes_bank(place, K, r)) Py_RETURN_FALSE;
  if (place == Place::cuda)
    return at.launch("lora_combine", [&](void* stream) {
      return g_serving.run.lora_combine(type, sm.data, sm.ld, codes.data, rows, slots.data, u.data, T, groups, K, r,
          stream);
    });
  return call(1.0 * T * width, [&] {
    return cpu::lora_combine(type, sm, {static_cast<float*>(codes.data), rows}, static_cast<int32_t*>(slots.data),
                             static_cast<float*>(u.data), T, groups, K, r);
  });
}

// (y, S, B, codes_a, codes_b, slots, widths, scale): widths, a tuple of ints, add up to B's columns
PyObject* py_lora_stacked_add(PyObject*, PyObject* const* a, Py_ssize_t n) {
  Site at;
  View y, S, B, ca, cb, slots;
  if (n != 8 || !g_torch.api || !at.read_all(a, y, S, B, ca, cb, slots) || !PyTuple_CheckExact(a[6]))
    Py_RETURN_FALSE;
  constexpr Py_ssize_t kMaxGroups = 8;
  const Py_ssize_t groups = PyTuple_GET_SIZE(a[6]);
  if (groups < 1 || groups > kMaxGroups) Py_RETURN_FALSE;
  int64_t ends[kMaxGroups], widths[kMaxGroups] = {}, total = 0;
  for (Py_ssize_t g = 0; g < groups; ++g) {
    const long width = PyLong_AsLong(PyTuple_GET_ITEM(a[6], g));
    if (width == -1 && PyErr_Occurred()) PyErr_Clear();
    if (width < 0 || width > INT64_MAX - total) Py_RETURN_FALSE;
    widths[g] = width;
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
  const Place place = at.place();
  if (!takes_bank(place, K, r)) Py_RETURN_FALSE;
  if (place == Place::cuda)
    return at.launch("lora_stacked_add", [&](void* stream) {
      return g_serving.run.lora_stacked_add(type, ym.data, ym.ld, sm.data, sm.ld, B.data, bm.ld, ca.data, cb.data, sa,
          slots.data, scale, ty, K, r, groups, widths[0], widths[1], widths[2], widths[3], widths[4], widths[5],
          widths[6], widths[7], stream);
    });
  return call(1.0 * ty * K * r * d, [&] {
    return cpu::lora_stacked_add(type, ym, sm, bm, {static_cast<float*>(ca.data), sa},
                                 {static_cast<float*>(cb.data), sb}, static_cast<int32_t*>(slots.data), ends, groups,
                                 scale, ty, K, r);
  });
}

// (y, u, B, codes, slots, scale)
PyObject* py_lora_expand_add(PyObject*, PyObject* const* a, Py_ssize_t n) {
  Site at;
  View y, u, B, codes, slots;
  if (n != 6 || !g_torch.api || !at.read_all(a, y, u, B, codes, slots))
    Py_RETURN_FALSE;
  DType type;
  cpu::Matrix ym, bm;
  int64_t T, d, K, r, db, S, tu;
  float scale;
  if (!y.float_type(&type) || !y.same_type(B) || !y.written_rows(&T, &d, &ym) || !B.bank(&K, &r, &db, &bm) || db != d ||
      !u.table(&tu, r) || tu != T || !codes.table(&S, K) || !slots.slot_list(T) || !scale_of(a[5], &scale) ||
      !y.apart(u, B, codes, slots))
    Py_RETURN_FALSE;
  const Place place = at.place();
  if (!takes_bank(place, K, r)) Py_RETURN_FALSE;
  if (place == Place::cuda)
    return at.launch("lora_expand_add", [&](void* stream) {
      return g_serving.run.lora_expand_add(type, ym.data, ym.ld, u.data, bm.data, bm.ld, codes.data, S, slots.data,
          scale, T, K, r, d, stream);
    });
  return call(1.0 * T * K * r * d, [&] {
    return cpu::lora_expand_add(type, ym, static_cast<float*>(u.data), bm, {static_cast<float*>(codes.data), S},
                                static_cast<int32_t*>(slots.data), scale, T, K, r, d);
  });
}

// None, or (u_gate, B_gate, u_up, B_up, codes, slots, scale), where u_up None means that u_gate holds both, [2, T, r].
bool read_lora(Site& at, PyObject* object, const View& gate, int64_t T, int64_t width, cpu::GatedLora* lora) {
  if (object == Py_None) return true;
  if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) != 7) return false;
  PyObject* const* items = PySequence_Fast_ITEMS(object);
  View ug, bg, uu, bu, codes, slots;
  const bool packed = items[2] == Py_None;
  if (!at.read_all(items, ug, bg) || (!packed && !at.read(uu, items[2])) || !at.read_all(items + 3, bu, codes, slots))
    return false;
  int64_t K2, r2, dg, du, count;
  if (!bg.bank(&lora->K, &lora->r, &dg, &lora->gate.B) || !bu.bank(&K2, &r2, &du, &lora->up.B) || K2 != lora->K ||
      r2 != lora->r || dg != width || du != width || !bg.same_type(gate) || !bu.same_type(gate) ||
      !codes.table(&lora->codes.rows, lora->K) || !slots.slot_list(T) || !scale_of(items[6], &lora->scale))
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
bool read_steering(Site& at, PyObject* object, int64_t T, int64_t width, cpu::Steering* steering) {
  if (object == Py_None) return true;
  if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) != 4) return false;
  PyObject* const* items = PySequence_Fast_ITEMS(object);
  View mask, add, strengths, slots;
  if (!at.read_all(items, mask, add, strengths, slots)) return false;
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
  Site at;
  View h, gate, up;
  if (n != 6 || !g_torch.api || !at.read_all(a, h, gate, up)) Py_RETURN_FALSE;
  Shaped s;
  cpu::Matrix hm, um;
  cpu::GatedLora lora{};
  cpu::Steering steering{};
  const long act = act_of(a[3]);
  if (act < 0 || !s.read(gate) || !s.like(gate, up, &um) || !s.like(gate, h, &hm) ||
      !read_lora(at, a[4], gate, s.T, s.width, &lora) || !read_steering(at, a[5], s.T, s.width, &steering))
    Py_RETURN_FALSE;
  const Place place = at.place();
  if (place == Place::none || (a[4] != Py_None && !takes_bank(place, lora.K, lora.r))) Py_RETURN_FALSE;
  if (place == Place::cuda)
    return at.launch("steered_gated_act", [&](void* stream) {
      return g_serving.run.steered_gated_act(s.type, act, s.rows.data, s.rows.ld, um.data, um.ld, hm.data, hm.ld, s.T,
          s.width, lora.gate.u, lora.gate.B.data, lora.gate.B.ld, lora.up.u, lora.up.B.data, lora.up.B.ld,
          lora.codes.data, lora.codes.rows, lora.slots, lora.scale, lora.K, lora.r, steering.clamp_mask, steering.add,
          steering.strengths.data, steering.strengths.rows, steering.slots, stream);
    });
  return call(1.0 * s.T * s.width * (2 * lora.K * lora.r + 16), [&] {
    return cpu::steered_gated_act(s.type, static_cast<Act>(act), s.rows, um, hm, a[4] != Py_None ? &lora : nullptr,
                                  a[5] != Py_None ? &steering : nullptr, nullptr, s.T, s.width);
  });
}

// (g_gate, g_up, g_v or None, gh, gate, up, act, lora, steering)
PyObject* py_steered_gated_act_grad(PyObject*, PyObject* const* a, Py_ssize_t n) {
  Site at;
  View g_gate, g_up, g_v, gh, gate, up;
  if (n != 9 || !g_torch.api || !at.read_all(a, g_gate, g_up) || (a[2] != Py_None && !at.read(g_v, a[2])) ||
      !at.read_all(a + 3, gh, gate, up))
    Py_RETURN_FALSE;
  Shaped s;
  cpu::Matrix out, um;
  cpu::GatedGrad grad{};
  cpu::GatedLora lora{};
  cpu::Steering steering{};
  const long act = act_of(a[6]);
  if (act < 0 || !s.read(gate) || !s.like(gate, up, &um) || !s.like(gate, g_gate, &out) ||
      !s.like(gate, g_up, &grad.up) || (a[2] != Py_None && !s.like(gate, g_v, &grad.v)) || !s.like(gate, gh, &grad.h) ||
      !read_lora(at, a[7], gate, s.T, s.width, &lora) || !read_steering(at, a[8], s.T, s.width, &steering))
    Py_RETURN_FALSE;
  if (at.place() != Place::cpu) Py_RETURN_FALSE;
  return call(1.0 * s.T * s.width * (2 * lora.K * lora.r + 24), [&] {
    return cpu::steered_gated_act(s.type, static_cast<Act>(act), s.rows, um, out, a[7] != Py_None ? &lora : nullptr,
                                  a[8] != Py_None ? &steering : nullptr, &grad, s.T, s.width);
  });
}

// (h, out, y, residual, weight, eps, unit_offset, lora): lora None or (u, B, codes, slots, scale)
PyObject* py_add_rmsnorm(PyObject*, PyObject* const* a, Py_ssize_t n) {
  Site at;
  View h, out, y, residual, weight;
  if (n != 8 || !g_torch.api || !at.read_all(a, h, out, y, residual, weight))
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
    PyObject* const* items = PySequence_Fast_ITEMS(a[7]);
    View u, B, codes, slots;
    int64_t d, tokens;
    if (!at.read_all(items, u, B, codes, slots) || !B.same_type(y) ||
        !B.bank(&lora.K, &lora.r, &d, &lora.B) || d != s.width || !u.table(&tokens, lora.r) || tokens != s.T ||
        !codes.table(&lora.codes.rows, lora.K) || !slots.slot_list(s.T) || !scale_of(items[4], &lora.scale))
      Py_RETURN_FALSE;
    lora.u = static_cast<float*>(u.data);
    lora.codes.data = static_cast<float*>(codes.data);
    lora.slots = static_cast<int32_t*>(slots.data);
  }
  const Place place = at.place();
  if (place == Place::none || (has_lora && !takes_bank(place, lora.K, lora.r)) ||
      (place == Place::cuda && !(h.contiguous() && out.contiguous())))
    Py_RETURN_FALSE;
  if (place == Place::cuda)
    return at.launch("add_rmsnorm", [&](void* stream) {
      return g_serving.run.add_rmsnorm(s.type, s.rows.data, s.rows.ld, rm.data, rm.ld, weight.data, eps,
          a[6] == Py_True, hm.data, om.data, s.T, s.width, lora.u, lora.B.data, lora.B.ld, lora.codes.data,
          lora.codes.rows, lora.slots, lora.scale, lora.K, lora.r, stream);
    });
  return call(1.0 * s.T * s.width * (lora.K * lora.r + 8), [&] {
    return cpu::add_rmsnorm(s.type, s.rows, rm, weight.data, eps, a[6] == Py_True, has_lora ? &lora : nullptr, hm, om,
                            s.T, s.width);
  });
}

// (gate, act, slots, edges, positive, histogram)
PyObject* py_activation_stats(PyObject*, PyObject* const* a, Py_ssize_t n) {
  Site at;
  View gate, slots, edges, positive, histogram;
  if (n != 6 || !g_torch.api || !at.read(gate, a[0]) || !at.read_all(a + 2, slots, edges, positive, histogram))
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
  const Place place = at.place();
  if (place == Place::none) Py_RETURN_FALSE;
  if (place == Place::cuda)
    return at.launch("activation_stats", [&](void* stream) {
      return g_serving.run.activation_stats(type, act, gm.data, gm.ld, slots.data, edges.data, edges.shape[0] + 1,
          positive.data, histogram.data, wide, positive.shape[0], T, width, stream);
    });
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

}  // namespace

namespace dpg {

void bind_ops(py::module_& m) { PyModule_AddFunctions(m.ptr(), kHot); }

}  // namespace dpg
