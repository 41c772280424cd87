#include "pifpaf/decode/seeds.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

namespace dgcn::pifpaf {

void append_seeds(int keypoint, const std::vector<PifCell>& cells, ConfidenceMap& map, const DecoderConfig& config,
                  std::vector<Seed>& seeds) {
  const float map_weight = config.seed_map_weight;
  std::vector<float> x, y, map_value(cells.size());
  x.reserve(cells.size());
  y.reserve(cells.size());
  for (const PifCell& cell : cells) {
    x.push_back(cell.x);
    y.push_back(cell.y);
  }
  map.look_up(x.data(), y.data(), cells.size(), -1.0F, map_value.data());
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const PifCell& cell = cells[i];
    const Joint joint{map_weight * map_value[i] + (1.0F - map_weight) * cell.confidence, cell.x, cell.y, cell.scale};
    if (cell.confidence >= config.seed_threshold && joint.confidence >= config.seed_threshold && joint.found())
      seeds.push_back({keypoint, cell.cell, joint});
  }
}

void sort_seeds(const DecoderConfig& config, std::vector<Seed>& seeds) {
  // LSD radix sort: positive floats are ordered like their bits.
  constexpr unsigned kDigitBits = 11, kDigits = 3;
  constexpr std::uint32_t kBins = 1U << kDigitBits;
  struct Key {
    std::uint32_t bits;  // inverted: ascending keys are descending confidences
    std::uint32_t seed;
  };
  std::vector<Key> keys, sorted(seeds.size());
  keys.reserve(seeds.size());
  for (const Seed& seed : seeds) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &seed.joint.confidence, sizeof bits);
    keys.push_back({~bits, static_cast<std::uint32_t>(keys.size())});
  }
  std::vector<std::uint32_t> begin(kBins);
  for (unsigned shift = 0; shift < kDigits * kDigitBits; shift += kDigitBits) {
    const auto digit = [&](const Key& key) { return key.bits >> shift & (kBins - 1); };
    std::fill(begin.begin(), begin.end(), 0);
    for (const Key& key : keys) ++begin[digit(key)];
    std::uint32_t total = 0;
    for (std::uint32_t& count : begin) total += std::exchange(count, total);
    for (const Key& key : keys) sorted[begin[digit(key)]++] = key;
    keys.swap(sorted);
  }

  keys.resize(std::min(keys.size(), static_cast<std::size_t>(config.max_seeds)));
  std::vector<Seed> best;
  best.reserve(keys.size());
  for (const Key& key : keys) best.push_back(seeds[key.seed]);
  seeds = std::move(best);
}

}  // namespace dgcn::pifpaf
