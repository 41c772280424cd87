// The decoder's kernels for AVX2.
#include "pifpaf/decode/kernels_impl.h"

namespace dgcn::pifpaf {

const Kernels avx2_kernels = kernel_set;

}  // namespace dgcn::pifpaf
