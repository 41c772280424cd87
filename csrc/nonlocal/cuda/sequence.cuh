// The sequence of an image: its keys, all b_j and all −a_i, in descending order. Part of kernels.cuh, which has an
// example.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "nonlocal/nonlocal.h"

namespace dgcn::nonlocal::cuda {

/// The key, with −∞ replaced by the lowest finite number. The sum of either and a finite key is not above 0, so the
/// result does not change. Differences of keys stay finite wherever the dense form is finite.
template <typename A>
__host__ __device__ A clamp_to_finite(A key) {
  constexpr A kLowest = std::numeric_limits<A>::lowest();
  return key < kLowest ? kLowest : key;
}

/// Unsigned bits that sort as the values of the sequence, b or −a. NaN is active with every other key, so a NaN in b
/// sorts last and a NaN in a sorts first. The code takes 0 − a for −a, which gives +0 for a = 0: the bits of −0 differ
/// from those of b = 0, although a + b = 0.
template <typename A>
__host__ __device__ auto sequence_bits(A key, bool is_a) {
  key = clamp_to_finite(key);
  if (!is_a) return sortable_bits(key);
  return key != key ? decltype(sortable_bits(key)){0} : sortable_bits(A(0) - key);
}

/// The items of all images are sorted by this, in ascending order: the image in the high bits, then the complement of
/// sequence_bits(). The sort is stable, and its input has the a of an image before the b. So where a_i + b_j = 0, a_i
/// comes before b_j, and the pair is not active.
template <typename A>
using SortKey = std::conditional_t<sizeof(A) == 4, uint64_t, unsigned __int128>;
template <typename A>
constexpr int kKeyBits = 8 * sizeof(A);

/// The number of bits that hold the number of an image.
constexpr int image_bits(int64_t images) {
  int bits = 0;
  while (int64_t{1} << bits < images) ++bits;
  return bits;
}

constexpr int kSortKeyThreads = 256;

/// The input of the sort: a_n of an image is item n, b_n is item N + n.
template <typename A>
__global__ void __launch_bounds__(kSortKeyThreads)
    sort_key_kernel(const A* a, const A* b, const int64_t images, const int64_t positions, SortKey<A>* keys,
                    uint32_t* items) {
  const int64_t count = 2 * positions, stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t e = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; e < images * count; e += stride) {
    const int64_t image = e / count, item = e % count;
    const bool is_a = item < positions;
    const A key = is_a ? a[image * positions + item] : b[image * positions + item - positions];
    const auto descending = static_cast<decltype(sortable_bits(key))>(~sequence_bits(key, is_a));
    keys[e] = SortKey<A>(image) << kKeyBits<A> | descending;
    items[e] = static_cast<uint32_t>(item);
  }
}

struct SequenceItem {
  double key;  ///< b or −a
  int32_t position;
  bool is_a;
};

template <typename A>
struct Sequence {
  const A *a, *b;         ///< keys [B, N]
  const uint32_t* order;  ///< [B, 2N], the sorted items
  int64_t positions;

  __host__ __device__ int64_t items() const { return 2 * positions; }

  __device__ SequenceItem at(int64_t image, int64_t place) const {
    const int64_t item = order[image * items() + place];
    const bool is_a = item < positions;
    const int64_t position = is_a ? item : item - positions;
    const double key = clamp_to_finite((is_a ? a : b)[image * positions + position]);
    return {is_a ? -key : key, static_cast<int32_t>(position), is_a};
  }
};

}  // namespace dgcn::nonlocal::cuda
