// Which of the torch ops' CPU kernels are used: by instruction set and dtype.
#pragma once

#include "common/checks.h"
#include "common/cpu_capability.h"

namespace dgcn {

/// Calls `body` with the kernels for features of this dtype, of the set for one instruction set.
template <typename KernelSet, typename Body>
auto with_kernels(const KernelSet& set, ScalarType dtype, Body body) {
  if (dtype == ScalarType::Double) return body(set.float64);
  if (dtype == ScalarType::Float) return body(set.float32);
  if (dtype == ScalarType::BFloat16) return body(set.bfloat16);
  return body(set.float16);
}

}  // namespace dgcn
