// The interface between the CPU backend (backend.cpp, torch) and its kernels (kernels.cpp, free of torch, compiled once
// per instruction set). Legend: nonlocal.h.
//
//   block   `block_channels` neighbouring channels of one image, which one scan computes. Blocks are numbered through
//           the batch, image by image; a thread computes whole blocks
#pragma once

#include <cstdint>

#include "common/dtypes.h"
#include "nonlocal/nonlocal.h"

namespace dgcn::nonlocal {

/// The keys a or b of one image by rank, their place in ascending order (NaN last). [N] each.
struct RankedKeys {
  double* key;        ///< [rank]
  int32_t* position;  ///< [rank]
  int32_t* rank;      ///< [position]
  int32_t* active;    ///< [rank]: number of keys of the other kind that are active with this one; ascending
};

struct ImageKeys {
  RankedKeys a, b;
};

template <typename Stored>
struct AffinityForwardArguments {
  FeatureShape shape;
  const ImageKeys* keys;  ///< [B]; `active` only of a
  FeatureView<const Stored> g;
  FeatureView<Stored> y;
};

template <typename Stored>
struct AffinityBackwardArguments {
  FeatureShape shape;
  const ImageKeys* keys;  ///< [B]
  FeatureView<const Stored> g, grad_y;
  FeatureView<Stored> grad_g;  ///< absent: not needed
  double *grad_a, *grad_b;     ///< [blocks, N] by rank: what each block adds to the gradient; both null: not needed
};

/// The kernels for one stored type. Each computes the blocks [begin, end); ranges may run in parallel.
template <typename Stored>
struct AffinityKernels {
  int64_t block_channels;
  void (*forward)(const AffinityForwardArguments<Stored>& arguments, int64_t begin, int64_t end);
  void (*backward)(const AffinityBackwardArguments<Stored>& arguments, int64_t begin, int64_t end);
};

using AffinityKernelTable = KernelsByDtype<AffinityKernels>;

}  // namespace dgcn::nonlocal
