// Which instruction set the CPU kernels use. Free of torch.
//
// A source named kernels.cpp is compiled once per instruction set (setup.py, CMakeLists.txt). These sources must never
// share the machine code of a function: the linker keeps one copy of an inline function, and if that were the AVX-512
// one, the portable code would crash on other machines. Therefore all functions that they include and call have
// internal linkage (an unnamed namespace, or DGCN_HOST_DEVICE) or are defined in a source that is compiled once; the
// ctest kernels_share_no_code checks it.
#pragma once

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace dgcn {

enum class InstructionSet { portable, avx2, avx512 };

/// The best one that this machine has.
inline InstructionSet best_instruction_set() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  // F16C, which is used as well, is older than AVX2; clang 14 cannot ask for it.
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return InstructionSet::portable;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return InstructionSet::avx512;
  return InstructionSet::avx2;
#else
  return InstructionSet::portable;
#endif
}

/// The one to use: the best, or the one that the environment variable DGCN_CPU_CAPABILITY names (read once). Throws
/// std::invalid_argument if this machine lacks that one.
inline InstructionSet instruction_set() {
  static const InstructionSet chosen = [] {
    const InstructionSet best = best_instruction_set();
    const char* requested = std::getenv("DGCN_CPU_CAPABILITY");
    if (requested == nullptr) return best;
    const char* names[] = {"portable", "avx2", "avx512"};
    for (int i = 0; i <= static_cast<int>(best); ++i)
      if (std::strcmp(requested, names[i]) == 0) return static_cast<InstructionSet>(i);
    throw std::invalid_argument(
        std::string("DGCN_CPU_CAPABILITY must be portable, avx2 or avx512, and at most what this machine has (") +
        names[static_cast<int>(best)] + "), got " + requested);
  }();
  return chosen;
}

/// The kernels compiled for one instruction set, a struct of function pointers. Defined by kernels.cpp:
///
///   template <>
///   const Kernels& kernels_for<Kernels, InstructionSet::DGCN_INSTRUCTION_SET>() { ... }
template <typename Kernels, InstructionSet set>
const Kernels& kernels_for();

template <typename Kernels>
const Kernels& kernels_for([[maybe_unused]] InstructionSet set) {
#if defined(__x86_64__)
  if (set == InstructionSet::avx512) return kernels_for<Kernels, InstructionSet::avx512>();
  if (set == InstructionSet::avx2) return kernels_for<Kernels, InstructionSet::avx2>();
#endif
  return kernels_for<Kernels, InstructionSet::portable>();
}

}  // namespace dgcn
