// Ranks the keys of one image, free of torch. Legend: nonlocal.h.
#pragma once

#include "common/radix_sort.h"
#include "nonlocal/cpu/kernels.h"

namespace dgcn::nonlocal {

/// Fills key, position and rank of `ranked`; equal keys stay in the order of their positions.
template <typename T>
void rank_keys(const T* keys, int64_t count, const RankedKeys& ranked) {
  struct Item {
    decltype(sortable_bits(T{})) bits;
    int32_t position;
  };
  std::vector<Item> items(count);
  for (int64_t n = 0; n < count; ++n) items[n] = {sortable_bits(keys[n]), static_cast<int32_t>(n)};
  radix_sort(items);
  for (int64_t rank = 0; rank < count; ++rank) {
    const int32_t position = items[rank].position;
    ranked.key[rank] = keys[position];
    ranked.position[rank] = position;
    ranked.rank[position] = static_cast<int32_t>(rank);
  }
}

/// Fills keys.active. A key is active with the largest keys of `others`; the larger the key, the more of them.
inline void count_active(const RankedKeys& keys, const RankedKeys& others, int64_t count) {
  int64_t active = 0;
  for (int64_t rank = 0; rank < count; ++rank) {
    while (active < count && is_active(keys.key[rank], others.key[count - 1 - active])) ++active;
    keys.active[rank] = static_cast<int32_t>(active);
  }
}

}  // namespace dgcn::nonlocal
