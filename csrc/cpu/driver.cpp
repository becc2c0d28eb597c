#include "cpu/driver.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "cpu/cpuid.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace dpg {
namespace cpu {
namespace {

// ---- instruction set ----

struct Choice {
  std::string name;
  const Kernels* kernels;
  bool usable;
};

std::vector<Choice> choices() {
  std::vector<Choice> all{{"generic", &kernels_generic(), true}};
#if defined(DPG_X86)
  const Features f = detect_features();
  all.push_back({"avx2", &kernels_avx2(), f.avx2});
  all.push_back({"avx512", &kernels_avx512(), f.avx512});
  all.push_back({"avx512bf16", &kernels_avx512bf16(), f.avx512bf16});
#endif
  return all;
}

const Kernels* find_kernels(const std::string& name) {
  for (const Choice& c : choices())
    if (c.name == name && c.usable) return c.kernels;
  return nullptr;
}

const Kernels* best_kernels() {
  const Kernels* best = nullptr;
  for (const Choice& c : choices())
    if (c.usable) best = c.kernels;
  return best;
}

std::atomic<const Kernels*> g_kernels{nullptr};
// About 40 us of one core: below that, waiting for a busy machine's other cores costs more than they save.
std::atomic<int64_t> g_threshold{2000000};

const Kernels& kernels() {
  const Kernels* k = g_kernels.load(std::memory_order_relaxed);
  if (!k) {
    k = best_kernels();
    g_kernels.store(k, std::memory_order_relaxed);
  }
  return *k;
}

// ---- threads ----

struct Team {
  int id, size;
  void barrier() const {
#if defined(_OPENMP)
    if (size > 1) {
#pragma omp barrier
    }
#endif
  }
  // This thread's share [begin, end) of n items.
  void share(int64_t n, int64_t* begin, int64_t* end) const {
    *begin = n * id / size;
    *end = n * (id + 1) / size;
  }
};

// Runs body once per thread. The team always has its full size: libgomp ends the threads that a smaller team leaves out.
template <class Body>
void with_team(double work, const Body& body) {
#if defined(_OPENMP)
  if (work >= static_cast<double>(g_threshold.load(std::memory_order_relaxed)) && omp_get_max_threads() > 1 && !omp_in_parallel()) {
#pragma omp parallel
    body(Team{omp_get_thread_num(), omp_get_num_threads()});
    return;
  }
#endif
  (void)work;
  body(Team{0, 1});
}

// Splits a [tokens x columns] job: columns first (a thread then keeps its part of the bank in cache), tokens after.
template <class Fn>
void split_2d(const Team& team, int64_t unit, int64_t columns, int64_t tokens, const Fn& fn) {
  const int64_t col_units = (columns + unit - 1) / unit;
  const int64_t pc = std::min<int64_t>(team.size, std::max<int64_t>(col_units, 1));
  const int64_t pt = team.size / pc;
  const int64_t ic = team.id % pc, it = team.id / pc;
  if (it >= pt) return;
  const int64_t c0 = col_units * ic / pc * unit, c1 = std::min(columns, col_units * (ic + 1) / pc * unit);
  const int64_t tiles = (tokens + 7) / 8;
  const int64_t i0 = tiles * it / pt * 8, i1 = std::min(tokens, tiles * (it + 1) / pt * 8);
  if (c0 < c1 && i0 < i1) fn(c0, c1, i0, i1);
}

// ---- scratch: kept per calling thread, grows only ----

template <class T>
T* scratch(std::vector<T>& buffer, int64_t count) {
  if (static_cast<int64_t>(buffer.size()) < count) buffer.resize(static_cast<size_t>(count));
  return buffer.data();
}
thread_local std::vector<int32_t> t_tokens;  // [T] each: rows as list_active gives them, slots, slots of the steering
thread_local std::vector<uint16_t> t_codes;
thread_local std::vector<float> t_coef;
thread_local std::vector<SteerRow> t_steer;

// Coefficients stay within about 2 MB: longer inputs are worked through in pieces of this many tokens.
int64_t chunk_tokens(int64_t per_token) {
  const int64_t fit = (int64_t{1} << 19) / std::max<int64_t>(per_token, 1);
  return std::max<int64_t>(fit / 8 * 8, 8);
}

// Makes *slots a copy in `own`, since another thread may change the tensor meanwhile. False: one is out of range.
bool own_slots(const int32_t** slots, int64_t T, int64_t rows, int32_t* own) {
  std::copy(*slots, *slots + T, own);
  *slots = own;
  bool ok = true;
  for (int64_t t = 0; t < T; ++t) ok &= own[t] >= -1 && own[t] < rows;
  return ok;
}

// Tokens with a slot, in order; with `rest`, followed by those without.
int64_t list_active(const int32_t* slots, int64_t T, int32_t* rows, bool rest) {
  int64_t n = 0;
  for (int64_t t = 0; t < T; ++t)
    if (slots[t] >= 0) rows[n++] = static_cast<int32_t>(t);
  if (rest) {
    int64_t m = n;
    for (int64_t t = 0; t < T; ++t)
      if (slots[t] < 0) rows[m++] = static_cast<int32_t>(t);
  }
  return n;
}

void run_shrink(const Kernels& k, DType type, const Shrink& p, const Team& team) {
  const int64_t tiles = (p.n + k.shrink_tile - 1) / k.shrink_tile;
  int64_t begin, end;
  team.share(p.groups * p.r * tiles, &begin, &end);
  k.shrink[type](p, begin, end);
}

// coef[i, k*r + j] = scale * codes[slot, k] * u[row, j]
void spread(const float* u, Codes codes, const int32_t* slots, const int32_t* rows, float scale, int64_t K, int64_t r,
            int64_t i0, int64_t i1, float* coef) {
  for (int64_t i = i0; i < i1; ++i) {
    const float* b = codes.data + slots[rows[i]] * K;
    const float* line = u + rows[i] * r;
    float* c = coef + i * K * r;
    for (int64_t k = 0; k < K; ++k) {
      const float factor = scale * b[k];
      for (int64_t j = 0; j < r; ++j) c[k * r + j] = factor * line[j];
    }
  }
}

// Spreading this many coefficients takes less time than waiting for the other threads to have done it.
constexpr int64_t kSerialSpread = 16384;

}  // namespace

std::vector<std::string> compiled_isas() {
  std::vector<std::string> names;
  for (const Choice& c : choices()) names.push_back(c.name);
  return names;
}
std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Choice& c : choices())
    if (c.usable) names.push_back(c.name);
  return names;
}
std::string current_isa() { return kernels().isa; }
bool set_isa(const std::string& name) {
  const Kernels* k = find_kernels(name);
  if (k) g_kernels.store(k, std::memory_order_relaxed);
  return k != nullptr;
}
int64_t parallel_threshold() { return g_threshold.load(std::memory_order_relaxed); }
void set_parallel_threshold(int64_t work) { g_threshold.store(work, std::memory_order_relaxed); }

Status lora_shrink(DType type, Matrix x, const void* A, Codes codes, const int32_t* slots, float* u, int64_t T,
                   int64_t groups, int64_t K, int64_t r, int64_t d) {
  int32_t* rows = scratch(t_tokens, 2 * T);
  if (!own_slots(&slots, T, codes.rows, rows + T)) return Status::bad_slot;
  const Kernels& k = kernels();
  const int64_t n = list_active(slots, T, rows, false);
  if (n < T) std::fill(u, u + groups * T * r, 0.0f);
  if (n == 0) return Status::ok;
  const int64_t chunk = chunk_tokens(d);  // x of one piece stays in L2 while the bank passes by
  with_team(1.0 * n * groups * K * r * d, [&](const Team& team) {
    for (int64_t i = 0; i < n; i += chunk) {
      const Shrink p{x.data, x.ld, A, codes.data, slots, rows + i, std::min(chunk, n - i), groups, K, r, d,
                     u, T * r, false, nullptr, nullptr, 0.0f};
      run_shrink(k, type, p, team);
    }
  });
  return Status::ok;
}

Status lora_expand_add(DType type, Matrix y, const float* u, Matrix B, Codes codes, const int32_t* slots, float scale,
                       int64_t T, int64_t K, int64_t r, int64_t d) {
  int32_t* rows = scratch(t_tokens, 2 * T);
  if (!own_slots(&slots, T, codes.rows, rows + T)) return Status::bad_slot;
  const Kernels& k = kernels();
  const int64_t n = list_active(slots, T, rows, false), kr = K * r;
  if (n == 0 || kr == 0) return Status::ok;
  const int64_t chunk = std::min(n, chunk_tokens(kr));
  float* coef = scratch(t_coef, chunk * kr);
  const bool early = chunk == n && n * kr <= kSerialSpread;
  if (early) spread(u, codes, slots, rows, scale, K, r, 0, n, coef);
  with_team(1.0 * n * kr * d, [&](const Team& team) {
    for (int64_t i = 0; i < n; i += chunk) {
      const int64_t m = std::min(chunk, n - i);
      if (!early) {
        int64_t i0, i1;
        team.share(m, &i0, &i1);
        spread(u, codes, slots, rows + i, scale, K, r, i0, i1, coef);
        team.barrier();
      }
      const Expand p{y.data, y.ld, y.data, y.ld, rows + i, B.data, B.ld, kr, coef};
      split_2d(team, k.col_unit, d, m, [&](int64_t c0, int64_t c1, int64_t a, int64_t b) { k.expand[type](p, c0, c1, a, b); });
      if (i + chunk < n) team.barrier();
    }
  });
  return Status::ok;
}

Status lora_add(DType type, Matrix y, Matrix x, const void* A, Matrix B, Codes codes_a, Codes codes_b,
                const int32_t* slots, float scale, int64_t T, int64_t K, int64_t r, int64_t d_in, int64_t d_out) {
  int32_t* rows = scratch(t_tokens, 2 * T);
  if (!own_slots(&slots, T, std::min(codes_a.rows, codes_b.rows), rows + T)) return Status::bad_slot;
  const Kernels& k = kernels();
  const int64_t n = list_active(slots, T, rows, false), kr = K * r;
  if (n == 0 || kr == 0) return Status::ok;
  const int64_t chunk = std::min(n, chunk_tokens(std::max(kr, d_in)));
  float* coef = scratch(t_coef, chunk * kr);
  with_team(1.0 * n * kr * (d_in + d_out), [&](const Team& team) {
    for (int64_t i = 0; i < n; i += chunk) {
      const int64_t m = std::min(chunk, n - i);
      const Shrink s{x.data, x.ld, A, codes_a.data, slots, rows + i, m, 1, K, r, d_in,
                     nullptr, 0, true, coef, codes_b.data, scale};
      run_shrink(k, type, s, team);
      team.barrier();
      const Expand p{y.data, y.ld, y.data, y.ld, rows + i, B.data, B.ld, kr, coef};
      split_2d(team, k.col_unit, d_out, m, [&](int64_t c0, int64_t c1, int64_t a, int64_t b) { k.expand[type](p, c0, c1, a, b); });
      if (i + chunk < n) team.barrier();
    }
  });
  return Status::ok;
}

Status lora_combine(DType type, Matrix S, Codes codes, const int32_t* slots, float* u, int64_t T, int64_t groups,
                    int64_t K, int64_t r) {
  int32_t* rows = scratch(t_tokens, 2 * T);
  if (!own_slots(&slots, T, codes.rows, rows + T)) return Status::bad_slot;
  const Kernels& k = kernels();
  const int64_t n = list_active(slots, T, rows, false);
  if (n < T) std::fill(u, u + groups * T * r, 0.0f);
  const Combine p{S.data, S.ld, codes.data, slots, rows, groups, K, r, u, T * r, false, nullptr, 0, nullptr, 0.0f};
  with_team(1.0 * n * groups * K * r, [&](const Team& team) {
    int64_t i0, i1;
    team.share(n, &i0, &i1);
    k.combine[type](p, i0, i1);
  });
  return Status::ok;
}

Status lora_stacked_add(DType type, Matrix y, Matrix S, Matrix B, Codes codes_a, Codes codes_b, const int32_t* slots,
                        const int64_t* ends, int64_t groups, float scale, int64_t T, int64_t K, int64_t r) {
  int32_t* rows = scratch(t_tokens, 2 * T);
  if (!own_slots(&slots, T, std::min(codes_a.rows, codes_b.rows), rows + T)) return Status::bad_slot;
  const Kernels& k = kernels();
  const int64_t n = list_active(slots, T, rows, false), kr = K * r;
  if (n == 0 || kr == 0) return Status::ok;
  const int64_t chunk = std::min(n, chunk_tokens(groups * kr));
  float* coef = scratch(t_coef, groups * chunk * kr);
  const auto spread_some = [&](int64_t i, int64_t i0, int64_t i1) {
    const Combine p{S.data, S.ld, codes_a.data, slots, rows + i, groups, K, r, nullptr, 0, true, coef, chunk * kr,
                    codes_b.data, scale};
    k.combine[type](p, i0, i1);
  };
  const bool early = chunk == n && n * groups * kr <= kSerialSpread;
  if (early) spread_some(0, 0, n);
  with_team(1.0 * n * kr * ends[groups - 1], [&](const Team& team) {
    for (int64_t i = 0; i < n; i += chunk) {
      const int64_t m = std::min(chunk, n - i);
      if (!early) {
        int64_t i0, i1;
        team.share(m, &i0, &i1);
        spread_some(i, i0, i1);
        team.barrier();
      }
      split_2d(team, k.col_unit, ends[groups - 1], m, [&](int64_t c0, int64_t c1, int64_t a, int64_t b) {
        for (int64_t g = 0, begin = 0; g < groups; begin = ends[g++]) {
          const Expand p{y.data, y.ld, y.data, y.ld, rows + i, B.data, B.ld, kr, coef + g * chunk * kr};
          const int64_t first = std::max(c0, begin), last = std::min(c1, ends[g]);
          if (first < last) k.expand[type](p, first, last, a, b);
        }
      });
      if (i + chunk < n) team.barrier();
    }
  });
  return Status::ok;
}

Status steered_gated_act(DType type, Act act, Matrix gate, Matrix up, Matrix h, const GatedLora* lora,
                         const Steering* steering, const GatedGrad* grad, int64_t T, int64_t width) {
  int32_t* rows = scratch(t_tokens, 3 * T);
  const int32_t *slots = lora ? lora->slots : nullptr, *steer_slots = steering ? steering->slots : nullptr;
  if (lora && !own_slots(&slots, T, lora->codes.rows, rows + T)) return Status::bad_slot;
  if (steering && !own_slots(&steer_slots, T, steering->strengths.rows, rows + 2 * T)) return Status::bad_slot;
  if (T == 0) return Status::ok;
  const Kernels& k = kernels();
  int64_t n = 0;
  if (lora) {
    n = list_active(slots, T, rows, true);
  } else {
    for (int64_t t = 0; t < T; ++t) rows[t] = static_cast<int32_t>(t);
  }
  SteerRow* steer = nullptr;
  if (steering) {
    steer = scratch(t_steer, T);
    for (int64_t t = 0; t < T; ++t) {
      SteerRow& s = steer[t];
      s.bits = s.count = 0;
      if (steer_slots[t] < 0) continue;
      const float* strength = steering->strengths.data + static_cast<int64_t>(steer_slots[t]) * kPoles;
      for (int p = 0; p < kPoles; ++p) {
        if (!(strength[p] > 0.0f)) continue;
        s.bits |= 1 << p;
        s.pole[s.count] = p;
        s.strength[s.count++] = strength[p];
      }
    }
  }
  const int64_t kr = lora ? lora->K * lora->r : 0;
  const int64_t chunk = std::max<int64_t>(1, std::min(n, chunk_tokens(2 * kr)));
  float* coef = lora ? scratch(t_coef, 2 * chunk * kr) : nullptr;
  Gated p{gate.data, up.data, h.data, gate.ld, up.ld, h.ld, rows,
          lora ? lora->gate.B.data : nullptr, lora ? lora->up.B.data : nullptr,
          lora ? lora->gate.B.ld : 0, lora ? lora->up.B.ld : 0, kr, false, nullptr, nullptr,
          steering ? steering->clamp_mask : nullptr, steering ? steering->add : nullptr, width, steer,
          false, nullptr, nullptr, nullptr, 0, 0, 0};
  if (grad) {
    p.gradient = true;
    p.gh = grad->h.data, p.ldgh = grad->h.ld;
    p.g_up = grad->up.data, p.ld_up = grad->up.ld;
    p.g_v = grad->v.data, p.ld_v = grad->v.ld;
  }
  const auto run = [&](const Gated& job, const Team& team, int64_t m) {
    split_2d(team, k.col_unit, width, m,
             [&](int64_t c0, int64_t c1, int64_t a, int64_t b) { k.gated[type](job, act, c0, c1, a, b); });
  };
  const auto spread_both = [&](int64_t i, int64_t i0, int64_t i1) {
    const auto side = [&](const LoraSide& s, float* out) {
      spread(s.u, lora->codes, slots, rows + i, lora->scale, lora->K, lora->r, i0, i1, out);
    };
    side(lora->gate, coef);
    side(lora->up, coef + chunk * kr);
  };
  const bool early = chunk >= n && n * kr <= kSerialSpread;
  if (early && n > 0) spread_both(0, 0, n);
  // An element of the activation itself costs about as much as 16 multiply-adds, a steered one more.
  with_team((2.0 * n * kr + ((steering ? 24.0 : 16.0) + (grad ? 8.0 : 0.0)) * T) * width, [&](const Team& team) {
    for (int64_t i = 0; i < n; i += chunk) {
      const int64_t m = std::min(chunk, n - i);
      if (!early) {
        int64_t i0, i1;
        team.share(m, &i0, &i1);
        spread_both(i, i0, i1);
        team.barrier();
      }
      Gated job = p;
      job.rows = rows + i;
      job.expands = true;
      job.coef_gate = coef;
      job.coef_up = coef + chunk * kr;
      run(job, team, m);
      if (i + chunk < n) team.barrier();
    }
    if (n < T) {
      Gated job = p;
      job.rows = rows + n;
      run(job, team, T - n);
    }
  });
  return Status::ok;
}

Status add_rmsnorm(DType type, Matrix y, Matrix residual, const void* weight, float eps, bool unit_offset,
                   const RideAlong* lora, Matrix h, Matrix out, int64_t T, int64_t width) {
  int32_t* rows = scratch(t_tokens, 2 * T);
  const int32_t* slots = lora ? lora->slots : nullptr;
  if (lora && !own_slots(&slots, T, lora->codes.rows, rows + T)) return Status::bad_slot;
  const Kernels& k = kernels();
  int64_t n = 0;
  if (lora) {
    n = list_active(slots, T, rows, true);
  } else {
    for (int64_t t = 0; t < T; ++t) rows[t] = static_cast<int32_t>(t);
  }
  const int64_t kr = lora ? lora->K * lora->r : 0;
  const int64_t chunk = std::max<int64_t>(1, std::min(n, chunk_tokens(kr)));
  float* coef = lora ? scratch(t_coef, chunk * kr) : nullptr;
  const Norm p{y.data, residual.data, weight, y.ld, residual.ld, width, slots,
               h.data, out.data, h.ld, out.ld, eps, unit_offset};
  // Whole rows to each thread, since a norm needs them: eight at a time, which share the bank's columns.
  constexpr int64_t kTile = 8;
  with_team((1.0 * n * kr + 8.0 * T) * width, [&](const Team& team) {
    for (int64_t i = 0; i < n; i += chunk) {
      const int64_t m = std::min(chunk, n - i);
      int64_t first, last;
      team.share((m + kTile - 1) / kTile, &first, &last);
      const int64_t i0 = first * kTile, i1 = std::min(m, last * kTile);
      if (i0 < i1) {  // a thread spreads the coefficients that it needs
        spread(lora->u, lora->codes, slots, rows + i, lora->scale, lora->K, lora->r, i0, i1, coef);
        k.expand[type]({h.data, h.ld, y.data, y.ld, rows + i, lora->B.data, lora->B.ld, kr, coef}, 0, width, i0, i1);
        k.norm[type](p, rows + i, i0, i1);
      }
      if (i + chunk < n) team.barrier();
    }
    int64_t i0, i1;
    team.share(T - n, &i0, &i1);
    k.norm[type](p, rows + n, i0, i1);
  });
  return Status::ok;
}

Status activation_stats(DType type, Act act, Matrix gate, const int32_t* slots, const float* edges, int64_t bins,
                        int64_t* positive, void* histogram, bool wide, int64_t table_rows, int64_t T, int64_t width) {
  int32_t* rows = scratch(t_tokens, 2 * T);
  if (!own_slots(&slots, T, table_rows, rows + T)) return Status::bad_slot;
  const Kernels& k = kernels();
  const int64_t n = list_active(slots, T, rows, false);
  if (n == 0) return Status::ok;
  std::stable_sort(rows, rows + n, [&](int32_t a, int32_t b) { return slots[a] < slots[b]; });
  std::vector<StatsRun> runs;
  for (int64_t i = 0; i < n; ++i) {
    if (i == 0 || slots[rows[i]] != runs.back().slot) runs.push_back({slots[rows[i]], i, i});
    runs.back().end = i + 1;
  }
  const float per_edge = bins > 2 ? static_cast<float>(bins - 2) / (edges[bins - 2] - edges[0]) : 0.0f;
  // A 16-bit gate has 65536 values: with many tokens, looking up where they fall is quicker than computing it.
  const bool coded = k.stats_codes[type] && bins < kStatsNowhere && n * width >= kStatsCodesPay;
  uint16_t* codes = coded ? scratch(t_codes, 65536) : nullptr;
  const Stats p{gate.data, gate.ld, width, rows, runs.data(), static_cast<int64_t>(runs.size()),
                edges, bins, per_edge, positive, histogram, wide, codes};
  if (coded) k.stats_codes[type](p, act);
  with_team(1.0 * n * width * 16, [&](const Team& team) {
    split_2d(team, k.col_unit, width, 1, [&](int64_t c0, int64_t c1, int64_t, int64_t) { k.stats[type](p, act, c0, c1); });
  });
  return Status::ok;
}

}  // namespace cpu
}  // namespace dpg
