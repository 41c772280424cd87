// The non-local layer's CPU kernels for the baseline of the target: SSE2, NEON.
#include "nonlocal/cpu/kernels_impl.h"

namespace dgcn::nonlocal {
namespace {

struct Portable {
  static constexpr int kVectorBytes = 16;
  static constexpr int kBlockVectors = 4;
};

}  // namespace

const CpuKernelSet kPortableKernels = kernel_set<Portable>();

}  // namespace dgcn::nonlocal
