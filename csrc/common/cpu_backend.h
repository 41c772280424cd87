// What the CPU backends of the torch ops share: the choice of a kernel by dtype, and threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "common/checks.h"
#include "common/dtypes.h"

namespace dgcn {

/// Calls body(kernels) with the kernels for features of `dtype`.
template <template <typename> class Kernels, typename Body>
void for_dtype(const KernelsByDtype<Kernels>& kernels, ScalarType dtype, Body body) {
  if (dtype == ScalarType::Double) return body(kernels.float64);
  if (dtype == ScalarType::Float) return body(kernels.float32);
  if (dtype == ScalarType::BFloat16) return body(kernels.bfloat16);
  return body(kernels.float16);
}

/// Calls body(begin, end) for ranges that make up [0, count), in torch's threads. `item_cost`: the time of one item, in
/// multiplications.
template <typename Body>
void parallel_for(int64_t count, int64_t item_cost, const Body& body) {
  constexpr int64_t kLeastCost = 1 << 20;  // of a range, about 20 µs: for less, starting a thread takes longer
  if (count > 0)
    torch::stable::parallel_for(0, count, std::max<int64_t>(1, kLeastCost / std::max<int64_t>(1, item_cost)), body);
}

}  // namespace dgcn
