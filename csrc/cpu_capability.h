// Which of the CPU kernels are used: by instruction set and dtype.
#pragma once

#include <cstdlib>
#include <cstring>

#include "checks.h"

namespace dgcn {

enum class CpuCapability { portable, avx2, avx512 };

/// The best that this machine has, or what the environment variable DGCN_CPU_CAPABILITY asks for (read once).
inline CpuCapability cpu_capability() {
  static const CpuCapability capability = [] {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
    const bool avx2 = false, avx512 = false;
#endif
    const CpuCapability best = avx512 ? CpuCapability::avx512 : avx2 ? CpuCapability::avx2 : CpuCapability::portable;
    const char* wish = std::getenv("DGCN_CPU_CAPABILITY");
    if (wish == nullptr) return best;
    const char* names[] = {"portable", "avx2", "avx512"};
    for (int i = 0; i <= static_cast<int>(best); ++i)
      if (std::strcmp(wish, names[i]) == 0) return static_cast<CpuCapability>(i);
    fail("DGCN_CPU_CAPABILITY must be portable, avx2 or avx512, and at most what this machine has (",
         names[static_cast<int>(best)], "), got ", wish);
  }();
  return capability;
}

/// Calls `body` with the kernels for features of this dtype, of the set for one instruction set.
template <typename KernelSet, typename Body>
auto with_kernels(const KernelSet& set, ScalarType dtype, Body body) {
  if (dtype == ScalarType::Double) return body(set.float64);
  if (dtype == ScalarType::Float) return body(set.float32);
  if (dtype == ScalarType::BFloat16) return body(set.bfloat16);
  return body(set.float16);
}

}  // namespace dgcn
