// The graph convolution's CPU kernels for the baseline of the target: SSE2, NEON.
#include "graph_conv/cpu/kernels_impl.h"

namespace dgcn {
namespace {

struct Portable {
  static constexpr int kVectorBytes = 16;
  // 8 sums, 2 of x, and room for the products of an instruction set without FMA: 16 registers.
  static constexpr int kRows = 4, kColumns = 2;
  static constexpr int kSquare = 3;  // 9 sums, 3 of x, 1 of g
};

}  // namespace

const CpuKernelSet kPortableKernels = kernel_set<Portable>();

}  // namespace dgcn
