// Steps 0 and 4 of kernels.cuh: features whose channels are not neighbours become rows, and rows become results. Free
// of torch. Legend: nonlocal.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "nonlocal/nonlocal.h"

namespace dgcn::nonlocal::cuda {

constexpr int kTransposeSide = 64;  // positions, and channels, of the square that a block transposes
constexpr int kTransposeThreads = 256;
constexpr int kStrip = kTransposeSide * kTransposeSide / kTransposeThreads;  // elements of a thread

template <typename T>
constexpr int64_t kTransposeBytes = kTransposeSide * (kTransposeSide + 1) * sizeof(T);

/// The square of a block.
struct BlockSquare {
  int64_t image, first_position, first_channel;

  __device__ BlockSquare(const FeatureShape& shape, bool last_image_first) {
    const int64_t across = (shape.positions + kTransposeSide - 1) / kTransposeSide;
    const int64_t down = (shape.channels + kTransposeSide - 1) / kTransposeSide;
    first_position = blockIdx.x % across * kTransposeSide;
    first_channel = blockIdx.x / across % down * kTransposeSide;
    image = blockIdx.x / across / down;
    if (last_image_first) image = shape.images - 1 - image;
  }
};

/// The elements of a thread: one in every fourth line of the square (kTransposeThreads / kTransposeSide = 4). Lines run
/// along positions or along channels.
template <typename Stored>
struct ThreadStrip {
  Stored* first;                  ///< in the tensor
  int64_t step;                   ///< from one element to the next
  int present;                    ///< how many of the kStrip elements are inside the tensor
  int shared_first, shared_step;  ///< the same in shared memory, [channels, positions], padded

  __device__ ThreadStrip(const FeatureView<Stored>& features, const FeatureShape& shape, const BlockSquare& square,
                         bool along_positions) {
    constexpr int kLines = kTransposeThreads / kTransposeSide;
    const int inner = threadIdx.x % kTransposeSide, outer = threadIdx.x / kTransposeSide;
    const int position = along_positions ? inner : outer, channel = along_positions ? outer : inner;
    const int64_t positions = shape.positions - square.first_position - position;  // from this one on
    const int64_t channels = shape.channels - square.first_channel - channel;
    const int64_t lines = along_positions ? channels : positions;
    first = features.data + square.image * features.image_stride +
            (square.first_position + position) * features.position_stride +
            (square.first_channel + channel) * features.channel_stride;
    step = kLines * (along_positions ? features.channel_stride : features.position_stride);
    present = positions > 0 && channels > 0 ? static_cast<int>(std::min<int64_t>((lines - 1) / kLines + 1, kStrip)) : 0;
    shared_first = channel * (kTransposeSide + 1) + position;
    shared_step = kLines * (along_positions ? kTransposeSide + 1 : 1);
  }
};

/// to = from. `to_rows`: neighbours in memory are positions in `from` and channels in `to`; else the other way round.
/// `last_image_first`: the order in which blocks go through the images.
template <typename T>
__global__ void __launch_bounds__(kTransposeThreads)
    transpose_kernel(const FeatureView<const T> from, const FeatureView<T> to, const FeatureShape shape,
                     const bool to_rows, const bool last_image_first) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  T* const elements = reinterpret_cast<T*>(shared_memory);
  const BlockSquare square(shape, last_image_first);
  const ThreadStrip<const T> source(from, shape, square, to_rows);
  T strip[kStrip];  // all loaded before the first is used
  DGCN_UNROLL()
  for (int i = 0; i < kStrip; ++i) {
    strip[i] = T();
    if (i < source.present) strip[i] = __ldg(source.first + i * source.step);
  }
  DGCN_UNROLL()
  for (int i = 0; i < kStrip; ++i) elements[source.shared_first + i * source.shared_step] = strip[i];
  __syncthreads();
  const ThreadStrip<T> target(to, shape, square, !to_rows);
  DGCN_UNROLL()
  for (int i = 0; i < kStrip; ++i)
    if (i < target.present) target.first[i * target.step] = elements[target.shared_first + i * target.shared_step];
}

/// Calls launch(kernel, blocks, threads, shared bytes, arguments...) with transpose_kernel.
template <typename T, typename Launch>
void transpose(const FeatureView<const T>& from, const FeatureView<T>& to, const FeatureShape& shape, bool to_rows,
               bool last_image_first, Launch launch) {
  const int64_t across = (shape.positions + kTransposeSide - 1) / kTransposeSide;
  const int64_t down = (shape.channels + kTransposeSide - 1) / kTransposeSide;
  launch(&transpose_kernel<T>, shape.images * across * down, kTransposeThreads, kTransposeBytes<T>, from, to, shape,
         to_rows, last_image_first);
}

}  // namespace dgcn::nonlocal::cuda
