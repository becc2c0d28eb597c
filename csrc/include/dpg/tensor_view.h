// The DLPack C exchange structures (https://dmlc.github.io/dlpack, C ABI version 1), as far as they are read here.
#pragma once
#include <cstdint>

namespace dpg {
namespace dlpack {

struct Device {
  int32_t type;
  int32_t id;
};
constexpr int32_t kCPU = 1, kCUDA = 2;

struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};
constexpr uint8_t kInt = 0, kFloat = 2, kBfloat = 4;

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;    // borrowed from the Python tensor
  int64_t* strides;  // in elements; borrowed, may be null for a contiguous tensor
  uint64_t byte_offset;
};

struct Version {
  uint32_t major;
  uint32_t minor;
};
struct ExchangeHeader {
  Version version;
  ExchangeHeader* previous;
};
struct ExchangeApi {
  ExchangeHeader header;
  void* allocator;
  void* managed_from_object;
  void* managed_to_object;
  int (*tensor_from_object)(void* object, Tensor* out);  // 0, or -1 with a Python error set; may be null
  void* current_stream;
};

}  // namespace dlpack
}  // namespace dpg
