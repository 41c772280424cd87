// The non-local layer's CPU kernels for AVX2 and FMA.
#include "nonlocal/cpu/kernels_impl.h"

namespace dgcn::nonlocal {
namespace {

struct Avx2 {
  static constexpr int kVectorBytes = 32;
  static constexpr int kBlockVectors = 4;
};

}  // namespace

const CpuKernelSet kAvx2Kernels = kernel_set<Avx2>();

}  // namespace dgcn::nonlocal
