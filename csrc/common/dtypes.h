// The dtypes of features in the CPU kernels, free of torch, and a table with the kernels of every dtype.
#pragma once

#include <cstdint>

namespace dgcn {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

/// The type in which the arithmetic on a stored type is done.
template <typename Stored>
struct Accumulation {
  using type = float;
};
template <>
struct Accumulation<double> {
  using type = double;
};

/// Kernels<Stored> for every dtype.
template <template <typename> class Kernels>
struct KernelsByDtype {
  Kernels<double> float64;
  Kernels<float> float32;
  Kernels<BFloat16> bfloat16;
  Kernels<Float16> float16;
};

}  // namespace dgcn
