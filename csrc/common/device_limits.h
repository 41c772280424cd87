// What a GPU allows a launch; free of torch and of CUDA calls.
#pragma once

#include <cstdint>

namespace dgcn {

struct DeviceLimits {
  int multiprocessors;
  int64_t block_shared_bytes;           ///< the most that one block can have
  int64_t multiprocessor_shared_bytes;  ///< of all blocks of one SM together
};

}  // namespace dgcn
