// Rows: features as the kernels access them, with all channels of a position side by side in memory. Others are copied
// to rows and back here. Part of kernels.cuh, free of torch. Legend: nonlocal.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "nonlocal/nonlocal.h"

namespace dgcn::nonlocal::cuda {

constexpr int kThreadChannels = 4;  // of a row, side by side: they share all that a thread does once per item

/// The channels of a thread: one access to memory, or two if T is double.
template <typename T>
struct __attribute__((may_alias)) RowPart {
  alignas(std::min<size_t>(kThreadChannels * sizeof(T), 16)) uint32_t words[kThreadChannels * sizeof(T) / 4];
};

/// The first of a thread's channels, in global memory: unless it is told so, the compiler has to find out at run time.
template <typename T>
__device__ RowPart<T>* part_at(T* address) {
#if defined(__CUDA_ARCH__)
  __builtin_assume(__isGlobal(address));
#endif
  return reinterpret_cast<RowPart<T>*>(address);
}
template <typename T>
__device__ const RowPart<T>* part_at(const T* address) {
  return part_at(const_cast<T*>(address));
}

/// The channels of a row, filled up to a multiple of kThreadChannels.
constexpr int64_t row_channels(int64_t channels) {
  return (channels + kThreadChannels - 1) / kThreadChannels * kThreadChannels;
}

/// Whether the kernels can access `features` in place.
template <typename Stored>
bool are_rows(const FeatureView<Stored>& features, const FeatureShape& shape) {
  return features.channel_stride == 1 && shape.channels % kThreadChannels == 0 &&
         features.position_stride % kThreadChannels == 0 && features.image_stride % kThreadChannels == 0 &&
         reinterpret_cast<uintptr_t>(features.data) % alignof(RowPart<Stored>) == 0;
}

template <typename T>
FeatureView<const T> as_const(const FeatureView<T>& features) {
  return {features.data, features.image_stride, features.channel_stride, features.position_stride};
}

constexpr int kCopySide = 64;  // positions, and channels, of the square that a block copies
constexpr int kCopyThreads = 256;
constexpr int kStrip = kCopySide * kCopySide / kCopyThreads;  // elements of a thread

template <typename T>
constexpr int64_t kCopyBytes = kCopySide * (kCopySide + 1) * sizeof(T);

/// The square of a block.
struct BlockSquare {
  int64_t image, first_position, first_channel;

  __device__ BlockSquare(const FeatureShape& shape, bool last_image_first) {
    const int64_t across = (shape.positions + kCopySide - 1) / kCopySide;
    const int64_t down = (shape.channels + kCopySide - 1) / kCopySide;
    first_position = blockIdx.x % across * kCopySide;
    first_channel = blockIdx.x / across % down * kCopySide;
    image = blockIdx.x / across / down;
    if (last_image_first) image = shape.images - 1 - image;
  }
};

/// The elements of a thread: one in every fourth line of the square (kCopyThreads / kCopySide = 4). Lines run along
/// channels if these are neighbours in memory, else along positions.
template <typename Stored>
struct ThreadStrip {
  Stored* first;                  ///< in the tensor
  int64_t step;                   ///< from one element to the next
  int present;                    ///< how many of the kStrip elements are inside the tensor
  int shared_first, shared_step;  ///< the same in shared memory, [channels, positions], padded

  __device__ ThreadStrip(const FeatureView<Stored>& features, const FeatureShape& shape, const BlockSquare& square) {
    constexpr int kLines = kCopyThreads / kCopySide;
    const bool along_positions = features.channel_stride != 1;
    const int inner = threadIdx.x % kCopySide, outer = threadIdx.x / kCopySide;
    const int position = along_positions ? inner : outer, channel = along_positions ? outer : inner;
    const int64_t positions = shape.positions - square.first_position - position;  // from this one on
    const int64_t channels = shape.channels - square.first_channel - channel;
    const int64_t lines = along_positions ? channels : positions;
    first = features.data + square.image * features.image_stride +
            (square.first_position + position) * features.position_stride +
            (square.first_channel + channel) * features.channel_stride;
    step = kLines * (along_positions ? features.channel_stride : features.position_stride);
    present = positions > 0 && channels > 0 ? static_cast<int>(std::min<int64_t>((lines - 1) / kLines + 1, kStrip)) : 0;
    shared_first = channel * (kCopySide + 1) + position;
    shared_step = kLines * (along_positions ? kCopySide + 1 : 1);
  }
};

/// to = from, and 0 in the channels that only `to` has. `last_image_first`: the order of images.
template <typename T>
__global__ void __launch_bounds__(kCopyThreads)
    copy_kernel(const FeatureView<const T> from, const FeatureShape from_shape, const FeatureView<T> to,
                const FeatureShape to_shape, const bool last_image_first) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  T* const elements = reinterpret_cast<T*>(shared_memory);
  const BlockSquare square(to_shape, last_image_first);
  const ThreadStrip<const T> source(from, from_shape, square);
  T strip[kStrip];  // all loaded before the first is used
  DGCN_UNROLL()
  for (int i = 0; i < kStrip; ++i) {
    strip[i] = T();
    if (i < source.present) strip[i] = __ldg(source.first + i * source.step);
  }
  DGCN_UNROLL()
  for (int i = 0; i < kStrip; ++i) elements[source.shared_first + i * source.shared_step] = strip[i];
  __syncthreads();
  const ThreadStrip<T> target(to, to_shape, square);
  DGCN_UNROLL()
  for (int i = 0; i < kStrip; ++i)
    if (i < target.present) target.first[i * target.step] = elements[target.shared_first + i * target.shared_step];
}

/// The rows of features. `Allocate`: allocate(count) returns memory for `count` elements of T. `Launch`: calls
/// launch(kernel, blocks, threads, shared bytes, arguments...).
template <typename T, typename Allocate, typename Launch>
class RowConverter {
 public:
  RowConverter(const FeatureShape& shape, Allocate allocate, Launch launch)
      : shape_(shape),
        row_shape_{shape.images, row_channels(shape.channels), shape.positions},
        allocate_(allocate),
        launch_(launch) {}

  /// Rows with what `features` hold now.
  FeatureView<const T> input(const FeatureView<const T>& features) const {
    if (are_rows(features, shape_)) return features;
    const FeatureView<T> rows = new_rows();
    copy(features, shape_, rows, row_shape_, false);
    return as_const(rows);
  }

  /// Rows for what copy_back() is to take to `features`.
  FeatureView<T> output(const FeatureView<T>& features) const {
    return are_rows(features, shape_) ? features : new_rows();
  }

  void copy_back(const FeatureView<T>& rows, const FeatureView<T>& features) const {
    if (rows.data != features.data) copy(as_const(rows), row_shape_, features, shape_, true);
  }

 private:
  FeatureView<T> new_rows() const {
    const auto [images, channels, positions] = row_shape_;
    return {allocate_(images * channels * positions), channels * positions, 1, channels};
  }

  void copy(const FeatureView<const T>& from, const FeatureShape& from_shape, const FeatureView<T>& to,
            const FeatureShape& to_shape, bool last_image_first) const {
    const int64_t across = (to_shape.positions + kCopySide - 1) / kCopySide;
    const int64_t down = (to_shape.channels + kCopySide - 1) / kCopySide;
    launch_(&copy_kernel<T>, to_shape.images * across * down, kCopyThreads, kCopyBytes<T>, from, from_shape, to,
            to_shape, last_image_first);
  }

  FeatureShape shape_, row_shape_;
  Allocate allocate_;
  Launch launch_;
};

}  // namespace dgcn::nonlocal::cuda
