// A least-significant-digit radix sort, free of torch.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace dgcn {

/// Sorts fewer than 2³² items by item.bits, an unsigned integer, in ascending order; equal items keep their order.
template <typename Item>
void radix_sort(std::vector<Item>& items) {
  using Bits = decltype(Item::bits);
  constexpr int kDigitBits = 11, kDigits = (8 * sizeof(Bits) + kDigitBits - 1) / kDigitBits;
  constexpr std::size_t kValues = std::size_t{1} << kDigitBits;
  const auto digit_of = [](const Item& item, int digit) { return item.bits >> (digit * kDigitBits) & (kValues - 1); };

  std::array<std::array<std::uint32_t, kValues>, kDigits> counts{};
  for (const Item& item : items)
    for (int digit = 0; digit < kDigits; ++digit) ++counts[digit][digit_of(item, digit)];

  std::vector<Item> sorted(items.size());
  for (int digit = 0; digit < kDigits; ++digit) {
    if (items.empty() || counts[digit][digit_of(items[0], digit)] == items.size()) continue;  // all the same
    std::uint32_t start = 0;
    for (std::uint32_t& count : counts[digit]) start += std::exchange(count, start);  // becomes a start
    for (const Item& item : items) sorted[counts[digit][digit_of(item, digit)]++] = item;
    items.swap(sorted);
  }
}

}  // namespace dgcn
