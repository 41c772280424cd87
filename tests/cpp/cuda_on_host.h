// The part of CUDA that the kernels use, so that their source runs on the host unchanged. Include it before the
// kernels.
//
// Each thread of a block is a fiber that runs until the next __syncthreads(); blocks run one after the other. Shared
// memory starts as NaN, and the guard behind it must not change. Tests run the threads in both orders: if two threads
// access the same memory without a barrier between them, the results differ. An asynchronous copy makes its target NaN
// and lands only when its thread waits for it.
#pragma once

#undef _FORTIFY_SOURCE  // its longjmp refuses to jump to another stack
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
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

/// The threads of the block that runs. Fibers are started once, with makecontext, and are reused for all blocks. They
/// switch with _setjmp and _longjmp, which unlike swapcontext make no system calls.
class Block {
 public:
  static Block& instance() {
    static Block block;
    return block;
  }

  /// Runs `body` in `threads` threads, all of them up to each barrier, until they return.
  void run(size_t threads, const std::function<void()>& body, bool reversed) {
    body_ = body;
    while (fibers_.size() < threads) fibers_.emplace_back();
    for (size_t t = 0; t < threads; ++t) fibers_[t].done = false;
    for (size_t live = threads; live > 0;) {
      size_t waiting = 0;
      for (size_t i = 0; i < threads; ++i) {
        current_ = &fibers_[reversed ? threads - 1 - i : i];
        if (current_->done) continue;
        threadIdx.x = static_cast<unsigned>(reversed ? threads - 1 - i : i);
        resume();
        current_->done ? --live : ++waiting;
      }
      CHECK(waiting == 0 || waiting == live);  // a barrier that only some of the threads reach hangs a GPU
    }
    for (const Fiber& fiber : fibers_) CHECK(fiber.copies.empty());  // nobody has waited for them
  }

  AsyncCopies& copies() { return current_->copies; }

  /// Suspends the current thread until the scheduler resumes it.
  void yield() {
    if (_setjmp(current_->state) == 0) _longjmp(scheduler_, 1);
  }

 private:
  struct Fiber {
    static constexpr size_t kStack = 64 * 1024;
    std::unique_ptr<char[]> stack{new char[kStack]};
    jmp_buf state;
    AsyncCopies copies;
    bool started = false, done = false;
  };

  void resume() {
    if (_setjmp(scheduler_) != 0) return;
    if (current_->started) _longjmp(current_->state, 1);
    current_->started = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = current_->stack.get();
    context.uc_stack.ss_size = Fiber::kStack;
    makecontext(&context, &Block::fiber_main, 0);
    setcontext(&context);
  }

  static void fiber_main() {
    for (Block& block = instance();; block.yield()) {
      block.body_();
      block.current_->done = true;
    }
  }

  std::function<void()> body_;
  std::deque<Fiber> fibers_;
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

static inline void __syncthreads() { cuda_on_host::Block::instance().yield(); }
/// Unlike on a GPU, all threads of the block have to call it, not only those of a warp.
static inline double __shfl_xor_sync(unsigned, double value, int lane_mask) {
  static double values[1024];
  values[threadIdx.x] = value;
  __syncthreads();
  const double received = values[threadIdx.x ^ static_cast<unsigned>(lane_mask)];
  __syncthreads();
  return received;
}
template <typename T>
static inline T __ldg(const T* address) {
  return *address;
}
static inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes) {
  CHECK(cuda_on_host::is_shared(to) && !cuda_on_host::is_shared(from) && (bytes == 4 || bytes == 8 || bytes == 16));
  CHECK(reinterpret_cast<uintptr_t>(to) % bytes == 0 && reinterpret_cast<uintptr_t>(from) % bytes == 0);
  cuda_on_host::Block::instance().copies().start(to, from, bytes);
}
static inline void __pipeline_commit() { cuda_on_host::Block::instance().copies().commit(); }
static inline void __pipeline_wait_prior(unsigned pending) { cuda_on_host::Block::instance().copies().wait(pending); }
