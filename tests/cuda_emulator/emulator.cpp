// Fibers, barriers and warp meetings of the emulator; see cuda_runtime.h beside this.
#include "cuda_runtime.h"

#include <ucontext.h>

#include <string>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
namespace {

constexpr size_t kStack = 96 * 1024;
constexpr size_t kGuard = 256;
constexpr unsigned char kGuardByte = 0xa5;
constexpr int kFailed = 100000;

struct Meeting {
  unsigned arrived = 0, expected = 0, round = 0;
  int value = 0, result = 0;
};
struct Warp {
  Meeting meeting;
  alignas(16) unsigned char given[2][32 * 32];  // a lane may be one meeting ahead of another
};

// A stopped thread of execution. On x86-64 a switch saves what the calling convention asks for and no more; elsewhere the
// C library does it, with a system call each time.
#if defined(__x86_64__)
struct Context {
  void* stack = nullptr;
};
extern "C" void dpg_emulator_switch(void** from, void* to);
asm(R"(
.text
.globl dpg_emulator_switch
.hidden dpg_emulator_switch
dpg_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
void change(Context& from, Context& to) { dpg_emulator_switch(&from.stack, to.stack); }
void prepare(Context& c, unsigned char* stack, size_t size, void (*start)()) {
  auto top = reinterpret_cast<uintptr_t>(stack + size) & ~static_cast<uintptr_t>(15);
  void** frame = reinterpret_cast<void**>(top) - 8;  // six registers, the address to go to, and one where it would return
  std::memset(frame, 0, 8 * sizeof(void*));
  frame[6] = reinterpret_cast<void*>(start);
  c.stack = frame;
}
#else
struct Context {
  ucontext_t c;
};
void change(Context& from, Context& to) { swapcontext(&from.c, &to.c); }
void prepare(Context& c, unsigned char* stack, size_t size, void (*start)()) {
  getcontext(&c.c);
  c.c.uc_stack.ss_sp = stack;
  c.c.uc_stack.ss_size = size;
  c.c.uc_link = nullptr;
  makecontext(&c.c, start, 0);
}
#endif

struct Copy {
  void* to;
  const void* from;
  int bytes;
};
struct Fiber {
  Context context;
  bool done = false;
  std::vector<Copy> copies;
};

std::vector<unsigned char> stacks;
std::vector<Fiber> fibers;
std::vector<Warp> warps;
std::vector<unsigned char> shared;
unsigned char* shared_base = nullptr;
Meeting block;
Context scheduler;
unsigned current = 0, waiting_in_a_row = 0;
bool descending = false;
std::string error;
const std::function<void()>* body_of_all = nullptr;

void fail(const std::string& text) {
  if (error.empty()) error = text;
}

void yield() { change(fibers[current].context, scheduler); }

// Arrives, and yields until all expected have arrived.
int meet(Meeting& m, int value) {
  const unsigned round = m.round;
  m.value |= value;
  if (++m.arrived == m.expected) {
    m.arrived = 0;
    m.result = m.value;
    m.value = 0;
    ++m.round;
    waiting_in_a_row = 0;
    return m.result;
  }
  while (m.round == round) {
    ++waiting_in_a_row;
    yield();
  }
  return m.result;
}

// A thread that has ended no longer counts at barriers.
void leave(Meeting& m) {
  if (--m.expected && m.arrived == m.expected) {
    m.arrived = 0;
    m.result = m.value;
    m.value = 0;
    ++m.round;
  }
}

void entry() {
  (*body_of_all)();
  waiting_in_a_row = 0;
  if (!fibers[current].copies.empty()) fail("a thread ended without waiting for its copies");
  fibers[current].done = true;
  leave(block);
  leave(warps[current / 32].meeting);
  yield();
}

void run_block(unsigned threads) {
  fibers.resize(threads);
  warps.assign((threads + 31) / 32, Warp{});
  block = Meeting{};
  block.expected = threads;
  for (unsigned i = 0; i < threads; ++i) ++warps[i / 32].meeting.expected;
  stacks.resize(threads * kStack);
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& f = fibers[i];
    f.done = false;
    f.copies.clear();
    prepare(f.context, stacks.data() + i * kStack, kStack, entry);
  }
  unsigned left = threads;
  waiting_in_a_row = 0;
  while (left) {
    left = 0;
    for (unsigned n = 0; n < threads; ++n) {
      current = descending ? threads - 1 - n : n;
      if (fibers[current].done) continue;
      ++left;
      threadIdx = dim3(current);
      change(scheduler, fibers[current].context);
    }
    if (waiting_in_a_row > 4 * threads) {
      fail("the threads of a block wait for different things");
      return;
    }
  }
}

}  // namespace

unsigned char* shared_memory() { return shared_base; }

void check_aligned(const void* p, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(p) % bytes) fail("a vector access is not aligned");
}

const unsigned char* warp_exchange(const void* mine, size_t bytes) {
  Warp& w = warps[current / 32];
  unsigned char* given = w.given[w.meeting.round % 2];
  std::memcpy(given + 32 * (current % 32), mine, bytes);
  meet(w.meeting, 0);
  return given;
}
void warp_wait() { meet(warps[current / 32].meeting, 0); }
void copy_async(void* to, const void* from, int bytes) {
  check_aligned(to, 16);
  if (bytes) check_aligned(from, 16);
  fibers[current].copies.push_back({to, from, bytes});
}
void wait_copies() {
  for (const Copy& c : fibers[current].copies) {
    std::memset(c.to, 0, 16);
    std::memcpy(c.to, c.from, static_cast<size_t>(c.bytes));
  }
  fibers[current].copies.clear();
}
int block_barrier(int value) { return meet(block, value); }

int run(dim3 grid, unsigned threads, size_t bytes, const std::function<void()>& body) {
  error.clear();
  if (!grid.x || !grid.y || !grid.z || !threads || threads > 1024 || grid.y > 65535 || grid.z > 65535) {
    fail("a launch of an impossible size");
    return kFailed;
  }
  gridDim = grid;
  blockDim = dim3(threads);
  body_of_all = &body;
  shared.resize(bytes + 2 * kGuard + 16);
  shared_base = shared.data() + kGuard;
  shared_base += (16 - reinterpret_cast<uintptr_t>(shared_base) % 16) % 16;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x && error.empty(); ++x) {
        blockIdx = dim3(x, y, z);
        std::memset(shared.data(), kGuardByte, shared.size());
        std::memset(shared_base, 0xff, bytes);  // NaN in every type
        run_block(threads);
        for (unsigned char* p = shared.data(); p < shared.data() + shared.size(); ++p)
          if ((p < shared_base || p >= shared_base + bytes) && *p != kGuardByte) fail("shared memory overrun");
      }
  return error.empty() ? 0 : kFailed;
}

}  // namespace emulator

const char* cudaGetErrorString(cudaError_t) { return emulator::error.c_str(); }

extern "C" void dpg_emulator_set_order(int64_t descending) { emulator::descending = descending != 0; }
