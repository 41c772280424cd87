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

/// What an item is sorted by, in ascending order: the complement of sequence_bits(). a_n of an image is item n, b_n is
/// item N + n. Sorts are stable. So where a_i + b_j = 0, a_i comes before b_j, and the pair is not active.
template <typename A>
using ItemBits = decltype(sortable_bits(A()));

template <typename A>
__device__ ItemBits<A> item_bits(const A* a, const A* b, int64_t image, int64_t item, int64_t positions) {
  const bool is_a = item < positions;
  return ~sequence_bits((is_a ? a : b)[image * positions + (is_a ? item : item - positions)], is_a);
}

// ---- The sort of images that a block can hold -----------------------------------------------------------------------

constexpr int kBlockSortThreads = 512;
constexpr int kBlockSortStrip = 8;  // neighbouring items of a thread
constexpr int64_t kBlockSortItems = kBlockSortThreads * kBlockSortStrip;

/// A block sorts the items of an image. BlockSort::sort(shared memory, bits, items) sorts the strips of all threads,
/// with BlockSort::kBytes of shared memory.
template <typename A, typename BlockSort>
__global__ void __launch_bounds__(kBlockSortThreads, 1)
    block_sort_kernel(const A* a, const A* b, const int64_t positions, uint32_t* order) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  const int64_t image = blockIdx.x, count = 2 * positions;
  const uint32_t first = threadIdx.x * kBlockSortStrip;
  ItemBits<A> bits[kBlockSortStrip];
  uint32_t items[kBlockSortStrip];
  DGCN_UNROLL()
  for (int i = 0; i < kBlockSortStrip; ++i) {
    items[i] = first + i;
    bits[i] = items[i] < count ? item_bits(a, b, image, items[i], positions) : ~ItemBits<A>{0};  // stays last
  }
  BlockSort::sort(shared_memory, bits, items);
  DGCN_UNROLL()
  for (int i = 0; i < kBlockSortStrip; ++i)
    if (first + i < count) order[image * count + first + i] = items[i];
}

// ---- The sort of larger images, all at once -------------------------------------------------------------------------

/// The image in the high bits, then ItemBits.
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

/// The input of the sort.
template <typename A>
__global__ void __launch_bounds__(kSortKeyThreads)
    sort_key_kernel(const A* a, const A* b, const int64_t images, const int64_t positions, SortKey<A>* keys,
                    uint32_t* items) {
  const int64_t count = 2 * positions, stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t e = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; e < images * count; e += stride) {
    const int64_t image = e / count, item = e % count;
    keys[e] = SortKey<A>(image) << kKeyBits<A> | item_bits(a, b, image, item, positions);
    items[e] = static_cast<uint32_t>(item);
  }
}

// ---- The sequence ---------------------------------------------------------------------------------------------------

template <typename A>
struct Sequence {
  const A *a, *b;         ///< keys [B, N]
  const uint32_t* order;  ///< [B, 2N], the sorted items
  int64_t positions;

  __host__ __device__ int64_t items() const { return 2 * positions; }
};

}  // namespace dgcn::nonlocal::cuda
