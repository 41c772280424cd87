// The graph convolution's CPU kernels for AVX2 and FMA.
#include "graph_conv/cpu/kernels_impl.h"

namespace dgcn {
namespace {

struct Avx2 {
  static constexpr int kVectorBytes = 32;
  static constexpr int kRows = 6, kColumns = 2;  // 12 sums, 2 of x, 1 of M: 16 registers
  static constexpr int kSquare = 3;              // 9 sums, 3 of x, 1 of g
};

}  // namespace

const CpuKernelSet kAvx2Kernels = kernel_set<Avx2>();

}  // namespace dgcn
