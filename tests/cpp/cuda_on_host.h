// The part of CUDA that the kernels use, so that their source runs on the host unchanged. Include it before the
// kernels.
//
// Each thread of a block is a fiber that runs until the next barrier; blocks run one after the other. Shared
// memory starts as NaN, and the guard behind it must not change. Tests run the threads in both orders: if two threads
// access the same memory without a barrier between them, the results differ. An asynchronous copy makes its target NaN
// and lands only when its thread waits for it.
#pragma once

#undef _FORTIFY_SOURCE  // its longjmp refuses to jump to another stack
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "check.h"

#define __global__
#define __device__
#define __host__
#define __shared__
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

namespace cuda_on_host {

struct Index {
  unsigned x;
};

constexpr size_t kSharedBytes = 227 * 1024;  // the most that a block of an H100 can have
constexpr size_t kGuardBytes = 1024;
constexpr int kPoison = 0xff;  // NaN in every floating dtype

}  // namespace cuda_on_host

static cuda_on_host::Index threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_host {

/// The asynchronous copies of a thread that have not landed: a group for each commit, the oldest first, and those not
/// yet committed.
class AsyncCopies {
 public:
  void start(void* to, const void* from, size_t bytes) {
    std::memset(to, kPoison, bytes);
    open_.push_back({to, from, bytes});
  }
  /// Without a change of what is at `to` until then.
  void start_late(void* to, const void* from, size_t bytes) { open_.push_back({to, from, bytes}); }
  void commit() {
    groups_.push_back(std::move(open_));
    open_.clear();
  }
  /// Lands all groups but the last `pending`.
  void wait(size_t pending) {
    for (; groups_.size() > pending; groups_.pop_front())
      for (const Copy& copy : groups_.front()) std::memcpy(copy.to, copy.from, copy.bytes);
  }
  bool empty() const {
    return open_.empty() &&
           std::all_of(groups_.begin(), groups_.end(), [](const auto& group) { return group.empty(); });
  }

 private:
  struct Copy {
    void* to;
    const void* from;
    size_t bytes;
  };
  std::deque<std::vector<Copy>> groups_;
  std::vector<Copy> open_;
};

constexpr size_t kWarp = 32;

/// The threads of the block that runs. Fibers are started once, with makecontext, and are reused for all blocks. They
/// switch with _setjmp and _longjmp, which unlike swapcontext make no system calls.
class Block {
 public:
  static Block& instance() {
    static Block block;
    return block;
  }

  /// Runs `body` in `threads` threads, each up to a barrier of its warp or of the block, until all of them return.
  void run(size_t threads, const std::function<void()>& body, bool reversed) {
    body_ = body;
    while (fibers_.size() < threads) fibers_.emplace_back();
    const auto end = fibers_.begin() + static_cast<std::ptrdiff_t>(threads);
    release(fibers_.begin(), end);
    for (bool all_done = false; !all_done;) {
      for (size_t i = 0; i < threads; ++i) {
        const size_t thread = reversed ? threads - 1 - i : i;
        current_ = &fibers_[thread];
        threadIdx.x = static_cast<unsigned>(thread);
        if (current_->state == State::kRunning) resume();
      }
      if (release_warps(threads)) continue;
      // Threads that wait for bulk copies stay running: others may still have to start these.
      if (std::any_of(fibers_.begin(), end, [](const Fiber& fiber) { return fiber.state == State::kRunning; })) {
        if (++idle_rounds_ < kMostIdleRounds) continue;
        std::fprintf(stderr, "a thread waits for bulk copies that nobody starts\n");
        std::abort();
      }
      idle_rounds_ = 0;
      all_done = all(fibers_.begin(), end, State::kDone);
      if (!all_done && !all(fibers_.begin(), end, State::kAtBlockBarrier)) {
        std::fprintf(stderr, "a barrier that only some of the threads reach hangs a GPU\n");
        std::abort();
      }
      if (!all_done) release(fibers_.begin(), end);
    }
    for (const Fiber& fiber : fibers_) CHECK(fiber.copies.empty() && fiber.bulk_stores.empty());  // nobody has waited
  }

  /// Suspend the current thread until all threads of the block, or of its warp, have come here.
  void wait_for_block() { suspend(State::kAtBlockBarrier); }
  void wait_for_warp() { suspend(State::kAtWarpBarrier); }
  /// Lets other threads run.
  void yield() { suspend(State::kRunning); }

  AsyncCopies& copies() { return current_->copies; }
  AsyncCopies& bulk_stores() { return current_->bulk_stores; }

 private:
  enum class State { kRunning, kAtWarpBarrier, kAtBlockBarrier, kDone };

  struct Fiber {
    static constexpr size_t kStack = 64 * 1024;
    std::unique_ptr<char[]> stack{new char[kStack]};
    jmp_buf registers;
    AsyncCopies copies, bulk_stores;
    State state = State::kDone;
    bool started = false;
  };
  using Fibers = std::deque<Fiber>;

  static bool all(Fibers::iterator begin, Fibers::iterator end, State state) {
    return std::all_of(begin, end, [&](const Fiber& fiber) { return fiber.state == state; });
  }
  static void release(Fibers::iterator begin, Fibers::iterator end) {
    std::for_each(begin, end, [](Fiber& fiber) { fiber.state = State::kRunning; });
  }
  bool release_warps(size_t threads) {
    bool any = false;
    for (size_t first = 0; first + kWarp <= threads; first += kWarp) {
      const auto begin = fibers_.begin() + static_cast<std::ptrdiff_t>(first), end = begin + kWarp;
      if (!all(begin, end, State::kAtWarpBarrier)) continue;
      release(begin, end);
      any = true;
    }
    return any;
  }

  void suspend(State state) {
    current_->state = state;
    if (_setjmp(current_->registers) == 0) _longjmp(scheduler_, 1);
  }

  void resume() {
    if (_setjmp(scheduler_) != 0) return;
    if (current_->started) _longjmp(current_->registers, 1);
    current_->started = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = current_->stack.get();
    context.uc_stack.ss_size = Fiber::kStack;
    makecontext(&context, &Block::fiber_main, 0);
    setcontext(&context);
  }

  static void fiber_main() {
    for (Block& block = instance();; block.suspend(State::kDone)) block.body_();
  }

  static constexpr int kMostIdleRounds = 1000;

  std::function<void()> body_;
  Fibers fibers_;
  int idle_rounds_ = 0;
  Fiber* current_ = nullptr;
  jmp_buf scheduler_;
};

inline const unsigned char* shared_begin = nullptr;

inline bool is_shared(const void* address) {
  const auto* byte = static_cast<const unsigned char*>(address);
  return shared_begin <= byte && byte < shared_begin + kSharedBytes;
}

/// kernel<<<blocks, threads, shared_bytes>>>(arguments...); `shared_memory` is the array that the kernel declares.
template <typename... Parameters, typename... Arguments>
void launch(unsigned char* shared_memory, int64_t blocks, int threads, int64_t shared_bytes, bool reversed,
            void (*kernel)(Parameters...), const Arguments&... arguments) {
  shared_begin = shared_memory;
  CHECK(0 <= shared_bytes && shared_bytes <= static_cast<int64_t>(kSharedBytes) && threads <= 1024);
  gridDim.x = static_cast<unsigned>(blocks);
  blockDim.x = static_cast<unsigned>(threads);
  for (int64_t i = 0; i < blocks; ++i) {
    blockIdx.x = static_cast<unsigned>(reversed ? blocks - 1 - i : i);
    std::memset(shared_memory, kPoison, shared_bytes + kGuardBytes);
    Block::instance().run(threads, [&] { kernel(arguments...); }, reversed);
    CHECK(std::all_of(shared_memory + shared_bytes, shared_memory + shared_bytes + kGuardBytes,
                      [](unsigned char byte) { return byte == kPoison; }));
  }
}

}  // namespace cuda_on_host

static inline void __syncthreads() { cuda_on_host::Block::instance().wait_for_block(); }
static inline void __syncwarp() { cuda_on_host::Block::instance().wait_for_warp(); }

namespace cuda_on_host {

/// What each lane of the warp gives, an array that lasts until the next call but one.
template <typename T>
const T* exchange(const T& value) {
  // Two arrays in turn: a lane that is ahead by a call must not overwrite what another has still to read.
  static T values[2][1024];
  static bool turns[1024];
  T* const given = values[turns[threadIdx.x] = !turns[threadIdx.x]];
  given[threadIdx.x] = value;
  __syncwarp();
  return given + threadIdx.x / kWarp * kWarp;
}

}  // namespace cuda_on_host

template <typename T>
static inline T __shfl_xor_sync(unsigned, T value, int lane_mask) {
  return cuda_on_host::exchange(value)[threadIdx.x % cuda_on_host::kWarp ^ static_cast<unsigned>(lane_mask)];
}
static inline unsigned __ballot_sync(unsigned, bool predicate) {
  const bool* const predicates = cuda_on_host::exchange(predicate);
  unsigned bits = 0;
  for (unsigned lane = 0; lane < cuda_on_host::kWarp; ++lane) bits |= unsigned{predicates[lane]} << lane;
  return bits;
}
static inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
template <typename T>
static inline T __ldg(const T* address) {
  return *address;
}
static inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes) {
  CHECK(cuda_on_host::is_shared(to) && !cuda_on_host::is_shared(from) && (bytes == 4 || bytes == 8 || bytes == 16));
  CHECK(reinterpret_cast<uintptr_t>(to) % bytes == 0 && reinterpret_cast<uintptr_t>(from) % bytes == 0);
  cuda_on_host::Block::instance().copies().start(to, from, bytes);
}
static inline uint32_t atomicOr(uint32_t* address, uint32_t bits) {
  const uint32_t before = *address;
  *address |= bits;
  return before;
}
static inline void __pipeline_commit() { cuda_on_host::Block::instance().copies().commit(); }
static inline void __pipeline_wait_prior(unsigned pending) { cuda_on_host::Block::instance().copies().wait(pending); }

// ---- Bulk copies: see graph_conv/cuda/bulk_copies.cuh ----------------------------------------------------------------

namespace cuda_on_host {

/// The phase that a barrier is in. Its loads land when the first thread has seen the phase end.
struct Phase {
  uint32_t parity = 0;
  bool arrived = false;
  size_t expected = 0, started = 0;  ///< bytes
  AsyncCopies loads;
};
inline std::map<const void*, Phase> phases;

inline void check_bulk(const void* shared, const void* global, size_t bytes) {
  CHECK(is_shared(shared) && !is_shared(global) && bytes > 0 && bytes % 16 == 0);
  CHECK(reinterpret_cast<uintptr_t>(shared) % 16 == 0 && reinterpret_cast<uintptr_t>(global) % 16 == 0);
}

}  // namespace cuda_on_host

namespace dgcn::graph_conv::cuda {

constexpr bool kHasBulkCopies = true;
using BulkBarrier = uint64_t;

inline void init_barrier(BulkBarrier* barrier) {
  CHECK(cuda_on_host::is_shared(barrier) && reinterpret_cast<uintptr_t>(barrier) % sizeof(BulkBarrier) == 0);
  cuda_on_host::phases[barrier] = {};
}
inline void fence_bulk_copies() {}
inline void expect_bytes(BulkBarrier* barrier, uint32_t bytes) { cuda_on_host::phases.at(barrier).expected += bytes; }
inline void arrive(BulkBarrier* barrier) {
  CHECK(!cuda_on_host::phases.at(barrier).arrived);
  cuda_on_host::phases.at(barrier).arrived = true;
}
inline void bulk_load(void* to, const void* from, uint32_t bytes, BulkBarrier* barrier) {
  cuda_on_host::check_bulk(to, from, bytes);
  cuda_on_host::Phase& phase = cuda_on_host::phases.at(barrier);
  phase.loads.start(to, from, bytes);
  phase.started += bytes;
}
inline void wait_for_phase(BulkBarrier* barrier, uint32_t parity) {
  cuda_on_host::Phase& phase = cuda_on_host::phases.at(barrier);
  while (phase.parity == parity && !phase.arrived) cuda_on_host::Block::instance().yield();
  if (phase.parity != parity) return;
  CHECK(phase.expected == phase.started);
  phase.loads.commit();
  phase.loads.wait(0);
  phase = {};
  phase.parity = parity ^ 1U;
}
/// Reads `from` as late as it may.
inline void bulk_store(void* to, const void* from, uint32_t bytes) {
  cuda_on_host::check_bulk(from, to, bytes);
  cuda_on_host::Block::instance().bulk_stores().start_late(to, from, bytes);
}
inline void wait_for_bulk_reads() {
  cuda_on_host::AsyncCopies& stores = cuda_on_host::Block::instance().bulk_stores();
  stores.commit();
  stores.wait(0);
}

}  // namespace dgcn::graph_conv::cuda
