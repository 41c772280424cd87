#include "pifpaf/decode/kernels.h"

#include "common/cpu_capability.h"

namespace dgcn::pifpaf {

const Kernels& kernels() {
#if defined(__x86_64__)
  if (cpu_capability() != CpuCapability::portable) return avx2_kernels;
#endif
  return portable_kernels;
}

}  // namespace dgcn::pifpaf
