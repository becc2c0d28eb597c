// lora_add: shrink, then expand, as two launches. An expand needs the shrink of the whole of d, that is, of all blocks:
// one launch would need a grid barrier (a cooperative launch, which captures badly and leaves most of the machine idle in
// the first half) or the expand in the last block to arrive (one multiprocessor's bandwidth). Two launches on one stream
// cost about two microseconds in a graph and give the bits of the separate operations by construction.
#include "dpg/cuda_api.h"

extern "C" int dpg_cuda_lora_add(int64_t type, void* y, int64_t ldy, const void* x, int64_t ldx, const void* A,
                                 const void* B, int64_t ldb, const void* codes_a, const void* codes_b,
                                 int64_t code_rows, const void* slots, void* u, double scale, int64_t tokens, int64_t K,
                                 int64_t r, int64_t d_in, int64_t d_out, void* stream) {
  const int error =
      dpg_cuda_lora_shrink(type, x, ldx, A, codes_a, code_rows, slots, u, tokens, 1, K, r, d_in, stream);
  if (error != 0) return error;
  return dpg_cuda_lora_expand_add(type, y, ldy, u, B, ldb, codes_b, code_rows, slots, scale, tokens, K, r, d_out, stream);
}
