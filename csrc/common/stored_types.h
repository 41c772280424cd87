// The types in which the CPU kernels find features stored, and the types in which they compute.
#pragma once

#include <cstdint>

namespace dgcn {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

/// The type in which a stored type is computed.
template <typename Stored>
struct Accumulation {
  using type = float;
};
template <>
struct Accumulation<double> {
  using type = double;
};

}  // namespace dgcn
