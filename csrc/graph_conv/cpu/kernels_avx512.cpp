// The graph convolution's CPU kernels for AVX-512 (F, BW, DQ, VL).
#include "graph_conv/cpu/kernels_impl.h"

namespace dgcn {
namespace {

struct Avx512 {
  static constexpr int kVectorBytes = 64;
  static constexpr int kRows = 8, kColumns = 3;  // 24 sums, 3 of x, 1 of M: leaves a few of 32 registers
  static constexpr int kSquare = 5;              // 25 sums, 5 of x, 1 of g
};

}  // namespace

const CpuKernelSet kAvx512Kernels = kernel_set<Avx512>();

}  // namespace dgcn
