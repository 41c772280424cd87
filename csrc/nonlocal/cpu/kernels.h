// The interface between the CPU operator (operator.cpp, torch) and its kernels (kernels_impl.h, free of
// torch, compiled once per instruction set). Legend: nonlocal.h.
//
//   block   neighbouring channels of one image, as many as the kernels walk through at a time. Blocks are numbered
//           through the batch, image by image; each is one unit of work for a thread
#pragma once

#include <cstdint>

#include "common/stored_types.h"
#include "nonlocal/cpu/sorted_keys.h"

namespace dgcn::nonlocal {

/// One image's keys in order; `met` says for each slot with how many keys of the other kind that one meets.
struct Side {
  SortedKeys keys;
  int32_t* met;
};

struct Pairing {
  Side a, b;
};

template <typename Stored>
struct ForwardArguments {
  Shape shape;
  const Pairing* pairings;  ///< [B]
  Features<const Stored> g;
  Features<Stored> y;
};

template <typename Stored>
struct BackwardArguments {
  Shape shape;
  const Pairing* pairings;  ///< [B]
  Features<const Stored> g, grad_y;
  Features<Stored> grad_g;  ///< data null: not wanted
  double *grad_a, *grad_b;  ///< [blocks, N] by slot: each block's share of the gradient; both null: not wanted
};

/// The kernels for one stored type. Each works on the blocks [begin, end), and ranges may run in parallel.
template <typename Stored>
struct CpuKernels {
  void (*forward)(const ForwardArguments<Stored>& arguments, int64_t begin, int64_t end);
  void (*backward)(const BackwardArguments<Stored>& arguments, int64_t begin, int64_t end);
};

struct CpuKernelSet {
  int64_t block_channels;
  CpuKernels<double> float64;
  CpuKernels<float> float32;
  CpuKernels<BFloat16> bfloat16;
  CpuKernels<Float16> float16;
};

extern const CpuKernelSet kPortableKernels;
#if defined(__x86_64__)
extern const CpuKernelSet kAvx2Kernels, kAvx512Kernels;
#endif

}  // namespace dgcn::nonlocal
