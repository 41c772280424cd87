// The non-local layer's CPU kernels for AVX-512 (F, BW, DQ, VL).
#include "nonlocal/cpu/kernels_impl.h"

namespace dgcn::nonlocal {
namespace {

struct Avx512 {
  static constexpr int kVectorBytes = 64;
  static constexpr int kBlockVectors = 2;
};

}  // namespace

const CpuKernelSet kAvx512Kernels = kernel_set<Avx512>();

}  // namespace dgcn::nonlocal
