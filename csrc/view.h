// A torch tensor as the bindings see it. Pointer, shape, strides and dtype come from the DLPack C exchange table of
// torch.Tensor (tens of nanoseconds, no torch headers); what that leaves out, how much memory there is and whether the
// values are simply what lies there, from the tensor's own fields, at offsets learned from sample tensors (learn_fields).
#pragma once
#include <pybind11/pybind11.h>

#include <cstring>
#include <vector>

#include "cpu/driver.h"
#include "dpg/tensor_view.h"

namespace dpg {

// What is known of torch; see bind_torch.
struct Torch {
  PyTypeObject *tensor, *parameter;
  PyObject* in_inference_mode;  // a function
  const dlpack::ExchangeApi* api;  // null: nothing can be read
  // Bytes from the Python object to its TensorImpl*, from there to the dispatch keys and the StorageImpl*, from there to
  // the address and the number of bytes.
  int64_t impl, keys, storage, base, bytes;
  uint64_t plain;  // the dispatch keys of a dense CPU tensor; an inference tensor has some of them
  uint64_t plain_cuda;  // of a CUDA tensor; 0 until one was seen
};
inline Torch g_torch{};

inline uint64_t word_at(const void* object, int64_t offset) {
  uint64_t word;
  std::memcpy(&word, static_cast<const char*>(object) + offset, sizeof word);
  return word;
}
inline const char* pointer_at(const void* object, int64_t offset) {
  return reinterpret_cast<const char*>(word_at(object, offset));
}

// What Python says of a sample tensor.
struct Sample {
  const void *object, *impl, *storage;
  uint64_t keys, base, bytes, length;
};

// The first offset from `begin` at which every sample has the word expected, or -1.
template <class Base, class Word>
int64_t offset_of(const std::vector<Sample>& samples, int64_t begin, int64_t end, Base base, Word word) {
  for (int64_t at = begin; at + 8 <= end; at += 8) {
    bool all = !samples.empty();
    for (const Sample& s : samples) all = all && word_at(s.*base, at) == (uint64_t)(s.*word);
    if (all) return at;
  }
  return -1;
}

inline bool learn_fields(const std::vector<Sample>& samples, Torch* torch) {
  // One dimension's length lies 112 bytes before the end: at 64, or (torch 2.11 with CUDA) at 72. Nothing is read behind.
  const int64_t length = offset_of(samples, 8, 80, &Sample::impl, &Sample::length);
  const int64_t impl_bytes = length < 0 ? 0 : length + 112;
  constexpr int64_t kStorageBytes = 64;
  const int64_t head = sizeof(PyObject);
  torch->impl = offset_of(samples, head, torch->tensor->tp_basicsize, &Sample::object, &Sample::impl);
  torch->keys = offset_of(samples, 8, impl_bytes, &Sample::impl, &Sample::keys);
  torch->storage = offset_of(samples, 8, impl_bytes, &Sample::impl, &Sample::storage);
  torch->base = offset_of(samples, 8, kStorageBytes, &Sample::storage, &Sample::base);
  torch->bytes = offset_of(samples, 8, kStorageBytes, &Sample::storage, &Sample::bytes);
  return torch->impl >= 0 && torch->keys >= 0 && torch->storage >= 0 && torch->base >= 0 && torch->bytes >= 0;
}

struct View : dlpack::Tensor {
  const char *low, *high;  // the memory between the first and behind the last element
  uint64_t keys;

  // False: not a plain torch tensor, with all its elements in its memory. Not plain are views that are to be negated,
  // zeros without memory, sparse and quantized tensors, and those wrapped by a transformation.
  bool read(PyObject* object) {
    PyTypeObject* type = Py_TYPE(object);
    if (type != g_torch.tensor && type != g_torch.parameter) return false;
    const char* impl = pointer_at(object, g_torch.impl);
    if (!impl) return false;
    keys = word_at(impl, g_torch.keys);
    if ((keys & ~g_torch.plain) && (keys & ~g_torch.plain_cuda)) return false;
    if (g_torch.api->tensor_from_object(object, this) != 0) {
      PyErr_Clear();
      return false;
    }
    data = static_cast<char*>(data) + byte_offset;
    const char* storage = pointer_at(impl, g_torch.storage);
    if (dtype.lanes != 1 || !span()) return false;
    if (low == high) return true;
    if (!storage) return false;
    const char* base = pointer_at(storage, g_torch.base);
    const int64_t bytes = static_cast<int64_t>(word_at(storage, g_torch.bytes));
    return base && low >= base && high - base <= bytes;
  }
  // Outside inference mode an inference tensor must not be written to.
  bool writable() const {
    if (keys == g_torch.plain || keys == g_torch.plain_cuda) return true;
    PyObject* answer = PyObject_CallNoArgs(g_torch.in_inference_mode);
    if (!answer) PyErr_Clear();
    Py_XDECREF(answer);
    return answer == Py_True;
  }
  // Whether none of the others shares memory with this one.
  template <class... Views>
  bool apart(const Views&... others) const {
    return ((low == high || others.low == others.high || high <= others.low || others.high <= low) && ...);
  }
  int64_t stride(int i) const {
    if (strides) return strides[i];
    int64_t s = 1;
    for (int k = ndim - 1; k > i; --k) s *= shape[k];
    return s;
  }
  bool is(uint8_t code, int bits) const { return dtype.code == code && dtype.bits == bits; }
  bool float_type(DType* out) const {
    if (is(dlpack::kFloat, 32)) return *out = kF32, true;
    if (is(dlpack::kBfloat, 16)) return *out = kBF16, true;
    if (is(dlpack::kFloat, 16)) return *out = kF16, true;
    return false;
  }
  bool same_type(const View& o) const { return dtype.code == o.dtype.code && dtype.bits == o.dtype.bits; }
  bool contiguous() const {
    int64_t expect = 1;
    for (int i = ndim - 1; i >= 0; --i) {
      if (shape[i] == 0) return true;
      if (shape[i] != 1 && stride(i) != expect) return false;
      expect *= shape[i];
    }
    return true;
  }
  // [..., width] as rows of unit inner stride, evenly spaced.
  bool rows(int64_t* count, int64_t* width, cpu::Matrix* out) const {
    if (ndim < 1) return false;
    const int last = ndim - 1;
    *width = shape[last];
    if (*width > 1 && stride(last) != 1) return false;
    int64_t n = 1, ld = *width;
    for (int i = last - 1; i >= 0; --i) {
      if (shape[i] != 1) {
        if (n == 1)
          ld = stride(i);
        else if (shape[i] != 0 && n != 0 && stride(i) != ld * n)
          return false;
        n *= shape[i];
      }
    }
    *count = n;
    *out = {data, ld};
    return true;
  }
  // The same of a tensor to be written to: rows that do not overlap.
  bool written_rows(int64_t* count, int64_t* width, cpu::Matrix* out) const {
    return rows(count, width, out) && (*count <= 1 || out->ld >= *width) && writable();
  }
  // [K, r, d]: K*r rows of unit inner stride, evenly spaced.
  bool bank(int64_t* K, int64_t* r, int64_t* d, cpu::Matrix* out) const {
    if (ndim != 3) return false;
    int64_t n;
    *K = shape[0];
    *r = shape[1];
    return rows(&n, d, out);
  }
  bool table(int64_t* count, int64_t width) const {  // float32 [*, width], contiguous
    *count = ndim == 2 ? shape[0] : 0;
    return ndim == 2 && shape[1] == width && is(dlpack::kFloat, 32) && contiguous();
  }
  bool slot_list(int64_t T) const {
    return ndim == 1 && shape[0] == T && T <= INT32_MAX && is(dlpack::kInt, 32) && (T <= 1 || stride(0) == 1);
  }

 private:
  // Sets low and high. Also bounds what sizes can be multiplied without overflow: those of one tensor, zeros left out, to
  // 2^48.
  bool span() {
    constexpr int64_t kMost = int64_t{1} << 48;
    const int64_t item = dtype.bits / 8;
    int64_t size = 1, last = 0;
    bool empty = false;
    for (int i = 0; i < ndim; ++i) {
      int64_t step;
      if (shape[i] == 0) {
        empty = true;
      } else if (__builtin_mul_overflow(size, shape[i], &size) || size > kMost ||
                 __builtin_mul_overflow(shape[i] - 1, stride(i), &step) || step < 0 ||
                 __builtin_add_overflow(last, step, &last)) {
        return false;
      }
    }
    low = high = static_cast<const char*>(data);
    if (empty) return true;
    if (!data || item == 0 || reinterpret_cast<uintptr_t>(data) & (item - 1) || last > kMost) return false;
    high += (last + 1) * item;
    return true;
  }
};

// Whether columns [0, wa) of a and [0, wb) of b lie side by side in rows of one spacing, as parts of one matrix.
inline bool side_by_side(const cpu::Matrix& a, int64_t wa, const cpu::Matrix& b, int64_t wb, int64_t item) {
  if (a.ld != b.ld || a.ld < wa + wb) return false;
  const int64_t gap = (static_cast<const char*>(b.data) - static_cast<const char*>(a.data)) / item % a.ld;
  const int64_t from = gap < 0 ? gap + a.ld : gap;
  return from >= wa && from + wb <= a.ld;
}

}  // namespace dpg
