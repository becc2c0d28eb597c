// What the bindings call: picks the instruction set, sorts out slots, splits the work over threads.
#pragma once
#include <string>
#include <vector>

#include "cpu/args.h"

namespace dpg {
namespace cpu {

enum class Status { ok, bad_slot };

struct Matrix {
  void* data;
  int64_t ld;  // elements between rows
};

// Token -> row of the code table. Slots outside [-1, rows) are reported, nothing is read or written then. A call reads the
// slots once, so that another thread may change them meanwhile.
struct Codes {
  const float* data;
  int64_t rows;
};

Status lora_shrink(DType type, Matrix x, const void* A, Codes codes, const int32_t* slots, float* u, int64_t T,
                   int64_t groups, int64_t K, int64_t r, int64_t d);

Status lora_expand_add(DType type, Matrix y, const float* u, Matrix B, Codes codes, const int32_t* slots, float scale,
                       int64_t T, int64_t K, int64_t r, int64_t d);

Status lora_add(DType type, Matrix y, Matrix x, const void* A, Matrix B, Codes codes_a, Codes codes_b,
                const int32_t* slots, float scale, int64_t T, int64_t K, int64_t r, int64_t d_in, int64_t d_out);

// u [groups, T, r] from S [T, groups * K * r]
Status lora_combine(DType type, Matrix S, Codes codes, const int32_t* slots, float* u, int64_t T, int64_t groups,
                    int64_t K, int64_t r);

// y[:, ends[g-1]:ends[g]] += scale * the expand of group g of S by those columns of B [K*r, ends[groups-1]]
Status lora_stacked_add(DType type, Matrix y, Matrix S, Matrix B, Codes codes_a, Codes codes_b, const int32_t* slots,
                        const int64_t* ends, int64_t groups, float scale, int64_t T, int64_t K, int64_t r);

struct LoraSide {
  const float* u;  // [T, r]
  Matrix B;
};
struct GatedLora {
  LoraSide gate, up;
  Codes codes;
  const int32_t* slots;
  float scale;
  int64_t K, r;
};
struct Steering {
  const int16_t* clamp_mask;
  const float* add;  // [10, width]
  Codes strengths;   // [S, 10]
  const int32_t* slots;
};
// What the gradient reads and writes beside the gradient of gate; v.data may be null.
struct GatedGrad {
  Matrix h, up, v;
};
// lora and steering may be null. With grad, h is the gradient of the (expanded) gate.
Status steered_gated_act(DType type, Act act, Matrix gate, Matrix up, Matrix h, const GatedLora* lora,
                         const Steering* steering, const GatedGrad* grad, int64_t T, int64_t width);

struct RideAlong {
  const float* u;  // [T, r]
  Matrix B;
  Codes codes;
  const int32_t* slots;
  float scale;
  int64_t K, r;
};
// h = residual + (y [+ expand]), out = its RMSNorm times weight (unit_offset: 1 + weight). lora may be null.
Status add_rmsnorm(DType type, Matrix y, Matrix residual, const void* weight, float eps, bool unit_offset,
                   const RideAlong* lora, Matrix h, Matrix out, int64_t T, int64_t width);

// positive and histogram rows `slots` get the counts of act(gate) added; edges [bins - 1], at least one.
Status activation_stats(DType type, Act act, Matrix gate, const int32_t* slots, const float* edges, int64_t bins,
                        int64_t* positive, void* histogram, bool wide, int64_t rows, int64_t T, int64_t width);

// Instruction sets compiled in and supported by this machine, weakest first.
std::vector<std::string> supported_isas();
std::vector<std::string> compiled_isas();
std::string current_isa();
bool set_isa(const std::string& name);  // false: unknown or unsupported

// Work (multiply-adds) below which a call stays on the calling thread.
int64_t parallel_threshold();
void set_parallel_threshold(int64_t work);

}  // namespace cpu
}  // namespace dpg
