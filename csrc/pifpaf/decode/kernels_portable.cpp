// The decoder's kernels for any machine.
#include "pifpaf/decode/kernels_impl.h"

namespace dgcn::pifpaf {

const Kernels portable_kernels = kernel_set;

}  // namespace dgcn::pifpaf
