// The keys of one image in order, and which of them meet (host only, free of torch). Legend: nonlocal.h.
#pragma once

#include <array>
#include <memory>
#include <utility>

#include "nonlocal/nonlocal.h"

namespace dgcn::nonlocal {

/// [N] each; in ascending order, NaN last. A "slot" is a place in that order.
struct SortedKeys {
  double* key;        ///< of the slot
  int32_t* position;  ///< of the slot
  int32_t* slot;      ///< of the position
};

/// LSD radix sort; equal keys stay in the order of their positions.
template <typename T>
void sort_keys(const T* keys, int64_t count, const SortedKeys& sorted) {
  using Bits = decltype(sortable(T{}));
  struct Item {
    Bits bits;
    int32_t position;
  };
  constexpr int kDigitBits = 11, kBins = 1 << kDigitBits, kDigits = (8 * sizeof(T) + kDigitBits - 1) / kDigitBits;
  const auto digit_of = [](Bits bits, int digit) { return bits >> (digit * kDigitBits) & (kBins - 1); };

  std::array<std::array<int32_t, kBins>, kDigits> starts{};
  const std::unique_ptr<Item[]> memory(new Item[2 * count]);
  Item *from = memory.get(), *to = from + count;
  for (int64_t n = 0; n < count; ++n) {
    from[n] = {sortable(keys[n]), static_cast<int32_t>(n)};
    for (int digit = 0; digit < kDigits; ++digit) ++starts[digit][digit_of(from[n].bits, digit)];
  }
  for (int digit = 0; digit < kDigits; ++digit) {
    if (count > 0 && starts[digit][digit_of(from[0].bits, digit)] == count) continue;  // all alike
    int32_t start = 0;
    for (int32_t& bin : starts[digit]) start += std::exchange(bin, start);
    for (int64_t n = 0; n < count; ++n) to[starts[digit][digit_of(from[n].bits, digit)]++] = from[n];
    std::swap(from, to);
  }
  for (int64_t slot = 0; slot < count; ++slot) {
    const int32_t position = from[slot].position;
    sorted.key[slot] = keys[position];
    sorted.position[slot] = position;
    sorted.slot[position] = static_cast<int32_t>(slot);
  }
}

/// met[slot] = with how many of `others` the key at a slot of `keys` meets; they are the largest ones. Ascending.
inline void count_meetings(const double* keys, const double* others, int64_t count, int32_t* met) {
  int64_t taken = 0;
  for (int64_t slot = 0; slot < count; ++slot) {
    while (taken < count && meet(keys[slot], others[count - 1 - taken])) ++taken;
    met[slot] = static_cast<int32_t>(taken);
  }
}

}  // namespace dgcn::nonlocal
