// Bulk copies between shared and device memory, which Hopper and later GPUs make without threads, in inline PTX.
// tests/cpp/cuda_on_host.h has the same functions for the host.
//
// Addresses and sizes are multiples of 16 bytes. Loads end at a barrier in shared memory: a phase of it ends when one
// thread has arrived and all expected bytes are there.
#pragma once

#include <cstdint>

namespace dgcn::graph_conv::cuda {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr bool kHasBulkCopies = false;
#define DGCN_HOPPER_ASM(...) __trap()  // never called
#else
constexpr bool kHasBulkCopies = true;
#define DGCN_HOPPER_ASM(...) asm volatile(__VA_ARGS__)
#endif

using BulkBarrier = uint64_t;

__device__ inline uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

__device__ inline void init_barrier(BulkBarrier* barrier) {
  DGCN_HOPPER_ASM("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
}

/// What this thread has written to shared memory, barriers too, comes before the bulk copies that follow.
__device__ inline void fence_bulk_copies() { DGCN_HOPPER_ASM("fence.proxy.async.shared::cta;" :: : "memory"); }

__device__ inline void expect_bytes(BulkBarrier* barrier, uint32_t bytes) {
  DGCN_HOPPER_ASM("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                  "r"(bytes) : "memory");
}

__device__ inline void arrive(BulkBarrier* barrier) {
  DGCN_HOPPER_ASM("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

/// Waits for the end of a phase: the first one has parity 0, the next one 1, then 0 again.
__device__ inline void wait_for_phase(BulkBarrier* barrier, uint32_t parity) {
  DGCN_HOPPER_ASM(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(parity) : "memory");
}

__device__ inline void bulk_load(void* to, const void* from, uint32_t bytes, BulkBarrier* barrier) {
  DGCN_HOPPER_ASM("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                      shared_address(to)),
                  "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(shared_address(barrier)) : "memory");
}

__device__ inline void bulk_store(void* to, const void* from, uint32_t bytes) {
  DGCN_HOPPER_ASM("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(__cvta_generic_to_global(to)),
                  "r"(shared_address(from)), "r"(bytes) : "memory");
}

/// Until the bulk stores of this thread have read shared memory.
__device__ inline void wait_for_bulk_reads() {
  DGCN_HOPPER_ASM("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;" :: : "memory");
}

#undef DGCN_HOPPER_ASM

}  // namespace dgcn::graph_conv::cuda
