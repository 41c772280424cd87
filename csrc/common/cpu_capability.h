// Which instruction set the CPU kernels may use. Knows nothing of torch.
#pragma once

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace dgcn {

enum class CpuCapability { portable, avx2, avx512 };

/// The best that this machine has, or what the environment variable DGCN_CPU_CAPABILITY asks for (read once). Throws
/// std::invalid_argument where that cannot be had.
inline CpuCapability cpu_capability() {
  static const CpuCapability capability = [] {
#if defined(__x86_64__)
    __builtin_cpu_init();
    // F16C, which is used too, came with the AVX of before; clang 14 cannot ask for it.
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
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
    throw std::invalid_argument(
        std::string("DGCN_CPU_CAPABILITY must be portable, avx2 or avx512, and at most what this machine has (") +
        names[static_cast<int>(best)] + "), got " + wish);
  }();
  return capability;
}

}  // namespace dgcn
