// The first and the last step of kernels.cuh: features whose channels are not neighbours become rows, and rows
// become results. Free of torch, like that one. Legend: nonlocal.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "nonlocal/nonlocal.h"

namespace dgcn::nonlocal::cuda {

constexpr int kTile = 64;  // positions, and channels, that a block transposes at a time
constexpr int kTransposeThreads = 256;
constexpr int kStrip = kTile * kTile / kTransposeThreads;

template <typename T>
constexpr int64_t kTransposeBytes = kTile * (kTile + 1) * sizeof(T);

struct TileOfBlock {
  int64_t image, first_position, first_channel;

  __device__ TileOfBlock(const Shape& shape, bool from_the_last) {
    const int64_t across = (shape.positions + kTile - 1) / kTile, down = (shape.channels + kTile - 1) / kTile;
    first_position = blockIdx.x % across * kTile;
    first_channel = blockIdx.x / across % down * kTile;
    image = blockIdx.x / across / down;
    if (from_the_last) image = shape.images - 1 - image;
  }
};

/// What a thread has of a tile: an element in every so many lines, which lie along positions or along channels.
template <typename Stored>
struct Strip {
  Stored* first;      ///< in the tensor
  int64_t step;       ///< from one element to the next
  int present;        ///< of kStrip, the others are beyond the tensor's end
  int place, stride;  ///< the same in shared memory, [channels, positions], padded

  __device__ Strip(const Features<Stored>& features, const Shape& shape, const TileOfBlock& tile,
                   bool along_positions) {
    constexpr int kLines = kTransposeThreads / kTile;
    const int inner = threadIdx.x % kTile, outer = threadIdx.x / kTile;
    const int position = along_positions ? inner : outer, channel = along_positions ? outer : inner;
    const int64_t positions = shape.positions - tile.first_position - position;  // from this one on
    const int64_t channels = shape.channels - tile.first_channel - channel;
    const int64_t lines = along_positions ? channels : positions;
    first = features.data + tile.image * features.image_stride +
            (tile.first_position + position) * features.position_stride +
            (tile.first_channel + channel) * features.channel_stride;
    step = kLines * (along_positions ? features.channel_stride : features.position_stride);
    present = positions > 0 && channels > 0 ? static_cast<int>(std::min<int64_t>((lines - 1) / kLines + 1, kStrip)) : 0;
    place = channel * (kTile + 1) + position;
    stride = kLines * (along_positions ? kTile + 1 : 1);
  }
};

/// to = from, tile by tile. `to_rows`: neighbours are positions in `from` and channels in `to`; else the other way round.
/// `from_the_last`: blocks start with the last image.
template <typename T>
__global__ void __launch_bounds__(kTransposeThreads)
    transpose_kernel(const Features<const T> from, const Features<T> to, const Shape shape, const bool to_rows,
                     const bool from_the_last) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  T* const elements = reinterpret_cast<T*>(shared_memory);
  const TileOfBlock tile(shape, from_the_last);
  const Strip<const T> source(from, shape, tile, to_rows);
  T strip[kStrip];  // all under way before the first is waited for
  DGCN_UNROLL()
  for (int i = 0; i < kStrip; ++i) {
    strip[i] = T();
    if (i < source.present) strip[i] = __ldg(source.first + i * source.step);
  }
  DGCN_UNROLL()
  for (int i = 0; i < kStrip; ++i) elements[source.place + i * source.stride] = strip[i];
  __syncthreads();
  const Strip<T> target(to, shape, tile, !to_rows);
  DGCN_UNROLL()
  for (int i = 0; i < kStrip; ++i)
    if (i < target.present) target.first[i * target.step] = elements[target.place + i * target.stride];
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
