// Launchers of the CUDA kernels: device pointers, sizes and strides in elements, a stream (null: the default stream).
// Plain C types, so that Python, the bindings and the emulator of the tests call the same symbols. Each returns a
// cudaError_t. `type` is a DType, `act` an Act. Nothing is checked but sizes that make a launch impossible: the caller has
// checked shapes, dtypes and the device. A slot outside its table counts as -1, for the device cannot report it.
#pragma once
#include <cstdint>

extern "C" {

// u[g, t, j] = sum_k codes[slots[t], k] * (A[g, k, j] . x[t]); 0 for slot -1. x [T, d], A [groups, K, r, d], u float32.
// K at most 64.
int dpg_cuda_lora_shrink(int64_t type, const void* x, int64_t ldx, const void* A, const void* codes, int64_t code_rows,
                         const void* slots, void* u, int64_t tokens, int64_t groups, int64_t K, int64_t r, int64_t d,
                         void* stream);

// u[g, t, j] = sum_k codes[slots[t], k] * S[t, (g*K + k)*r + j]; 0 for slot -1. S [T, groups*K*r], u float32.
int dpg_cuda_lora_combine(int64_t type, const void* S, int64_t lds, const void* codes, int64_t code_rows,
                          const void* slots, void* u, int64_t tokens, int64_t groups, int64_t K, int64_t r,
                          void* stream);

// y[t] += scale * sum_kj codes[slots[t], k] * u[t, j] * B[k*r + j]; y [T, width], B rows ldb apart.
int dpg_cuda_lora_expand_add(int64_t type, void* y, int64_t ldy, const void* u, const void* B, int64_t ldb,
                             const void* codes, int64_t code_rows, const void* slots, double scale, int64_t tokens,
                             int64_t K, int64_t r, int64_t width, void* stream);

// The same with in + delta written to y for tokens with a slot; y of the others is not written.
int dpg_cuda_lora_expand_into(int64_t type, void* y, int64_t ldy, const void* in, int64_t ld_in, const void* u,
                              const void* B, int64_t ldb, const void* codes, int64_t code_rows, const void* slots,
                              double scale, int64_t tokens, int64_t K, int64_t r, int64_t width, void* stream);

// Both, one after the other on the stream; u [T, r] float32 is scratch of the caller.
int dpg_cuda_lora_add(int64_t type, void* y, int64_t ldy, const void* x, int64_t ldx, const void* A, const void* B,
                      int64_t ldb, const void* codes_a, const void* codes_b, int64_t code_rows, const void* slots,
                      void* u, double scale, int64_t tokens, int64_t K, int64_t r, int64_t d_in, int64_t d_out,
                      void* stream);

// combine, then expand-add, for up to eight groups of columns in one launch; widths beyond the groups are 0.
int dpg_cuda_lora_stacked_add(int64_t type, void* y, int64_t ldy, const void* S, int64_t lds, const void* B, int64_t ldb,
                              const void* codes_a, const void* codes_b, int64_t code_rows, const void* slots,
                              double scale, int64_t tokens, int64_t K, int64_t r, int64_t groups, int64_t width0,
                              int64_t width1, int64_t width2, int64_t width3, int64_t width4, int64_t width5,
                              int64_t width6, int64_t width7, void* stream);

// h = steer(act(gate [+ expand])) * (up [+ expand]). u_gate null: no expands. strengths null: no steering.
int dpg_cuda_steered_gated_act(int64_t type, int64_t act, const void* gate, int64_t ldg, const void* up, int64_t ldu,
                               void* h, int64_t ldh, int64_t tokens, int64_t width, const void* u_gate,
                               const void* B_gate, int64_t ldb_gate, const void* u_up, const void* B_up,
                               int64_t ldb_up, const void* codes, int64_t code_rows, const void* lora_slots,
                               double scale, int64_t K, int64_t r, const void* clamp_mask, const void* add,
                               const void* strengths, int64_t strength_rows, const void* steer_slots, void* stream);

// h = residual + y' and out = h / sqrt(mean(h^2) + eps) * weight (unit_offset 1: * (1 + weight)), where y' is y with the
// expand of lora_expand_add (u null: without). h and out [T, width] are contiguous.
int dpg_cuda_add_rmsnorm(int64_t type, const void* y, int64_t ldy, const void* residual, int64_t ld_residual,
                         const void* weight, double eps, int64_t unit_offset, void* h, void* out, int64_t tokens,
                         int64_t width, const void* u, const void* B, int64_t ldb, const void* codes, int64_t code_rows,
                         const void* slots, double scale, int64_t K, int64_t r, void* stream);

// positive[s, i] += [v > 0] and histogram[s, i, bin(v)] += 1 with v = act(gate) and s = slots[t]; NaN counts nowhere.
// positive int64 [rows, width]; histogram int32 (wide 0) or int64 (wide 1) [rows, width, bins]; edges [bins - 1].
int dpg_cuda_activation_stats(int64_t type, int64_t act, const void* gate, int64_t ldg, const void* slots,
                              const void* edges, int64_t bins, void* positive, void* histogram, int64_t wide,
                              int64_t rows, int64_t tokens, int64_t width, void* stream);

const char* dpg_cuda_error_text(int error);

}  // extern "C"
