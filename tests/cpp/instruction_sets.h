// The kernels of every instruction set that this machine has.
#pragma once

#include <vector>

#include "common/instruction_set.h"

template <typename Kernels>
struct NamedKernels {
  const char* name;
  const Kernels& kernels;
};

/// The portable ones first.
template <typename Kernels>
static std::vector<NamedKernels<Kernels>> kernels_of_this_machine() {
  const char* names[] = {"portable", "avx2", "avx512"};
  std::vector<NamedKernels<Kernels>> sets;
  for (int set = 0; set <= static_cast<int>(dgcn::best_instruction_set()); ++set)
    sets.push_back({names[set], dgcn::kernels_for<Kernels>(static_cast<dgcn::InstructionSet>(set))});
  return sets;
}
