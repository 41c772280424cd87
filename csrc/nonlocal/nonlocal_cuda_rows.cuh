// The first and the last step of nonlocal_cuda.cuh: features whose channels are not neighbours become rows, and rows
// become results. Free of torch, like that one. Legend: nonlocal.h.
#pragma once

#include <cstdint>

#include "nonlocal.h"

namespace dgcn::nonlocal::cuda {

constexpr int kTile = 64;  // positions, and channels, that a block transposes at a time
constexpr int kTransposeThreads = 256;

template <typename T>
constexpr int64_t kTransposeBytes = kTile * (kTile + 1) * sizeof(T);

/// to = from, tile by tile. `to_rows`: neighbours are positions in `from` and channels in `to`; else the other way round.
/// `from_the_last`: blocks start with the last image.
template <typename T>
__global__ void __launch_bounds__(kTransposeThreads)
    transpose_kernel(const Features<const T> from, const Features<T> to, const Shape shape, const bool to_rows,
                     const bool from_the_last) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  T* const tile = reinterpret_cast<T*>(shared_memory);  // [channels, positions], padded
  const int64_t position_tiles = (shape.positions + kTile - 1) / kTile,
                channel_tiles = (shape.channels + kTile - 1) / kTile;
  const int64_t first_position = blockIdx.x % position_tiles * kTile;
  const int64_t first_channel = blockIdx.x / position_tiles % channel_tiles * kTile;
  const int64_t image_index = blockIdx.x / position_tiles / channel_tiles;
  const int64_t image = from_the_last ? shape.images - 1 - image_index : image_index;
  const auto for_each = [&](bool along_positions, auto body) {
    constexpr int kLines = kTransposeThreads / kTile;
    const int inner = threadIdx.x % kTile;
    DGCN_UNROLL()
    for (int i = 0; i < kTile / kLines; ++i) {
      const int outer = threadIdx.x / kTile + i * kLines;
      const int position = along_positions ? inner : outer, channel = along_positions ? outer : inner;
      if (first_position + position < shape.positions && first_channel + channel < shape.channels)
        body(first_position + position, first_channel + channel, tile[channel * (kTile + 1) + position]);
    }
  };
  for_each(to_rows, [&](int64_t position, int64_t channel, T& element) {
    element = from.data[image * from.image_stride + channel * from.channel_stride + position * from.position_stride];
  });
  __syncthreads();
  for_each(!to_rows, [&](int64_t position, int64_t channel, const T& element) {
    to.data[image * to.image_stride + channel * to.channel_stride + position * to.position_stride] = element;
  });
}

/// By launch(kernel, blocks, threads, shared bytes, arguments...).
template <typename T, typename Launch>
void transpose(const Features<const T>& from, const Features<T>& to, const Shape& shape, bool to_rows,
               bool from_the_last, Launch launch) {
  const int64_t tiles = (shape.positions + kTile - 1) / kTile * ((shape.channels + kTile - 1) / kTile);
  launch(&transpose_kernel<T>, shape.images * tiles, kTransposeThreads, kTransposeBytes<T>, from, to, shape, to_rows,
         from_the_last);
}

}  // namespace dgcn::nonlocal::cuda
