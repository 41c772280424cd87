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
  std::vector<float> x, y, support(cells.size());
  x.reserve(cells.size());
  y.reserve(cells.size());
  for (const PifCell& cell : cells) {
    x.push_back(cell.x);
    y.push_back(cell.y);
  }
  map.look_up(x.data(), y.data(), cells.size(), -1.0F, support.data());
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const PifCell& cell = cells[i];
    const Joint joint{map_weight * support[i] + (1.0F - map_weight) * cell.confidence, cell.x, cell.y, cell.scale};
    if (cell.confidence >= config.seed_threshold && joint.confidence >= config.seed_threshold && joint.found())
      seeds.push_back({keypoint, cell.cell, joint});
  }
}

void sort_seeds(const DecoderConfig& config, std::vector<Seed>& seeds) {
  // A radix sort, least significant digit first: positive floats are ordered as their bits are.
  constexpr unsigned digit_bits = 11, num_digits = 3;
  constexpr std::uint32_t num_values = 1U << digit_bits;
  struct Key {
    std::uint32_t bits;  // descending confidences ascend here
    std::uint32_t seed;
  };
  std::vector<Key> keys, sorted(seeds.size());
  keys.reserve(seeds.size());
  for (const Seed& seed : seeds) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &seed.joint.confidence, sizeof bits);
    keys.push_back({~bits, static_cast<std::uint32_t>(keys.size())});
  }
  std::vector<std::uint32_t> begin(num_values);
  for (unsigned shift = 0; shift < num_digits * digit_bits; shift += digit_bits) {
    const auto digit = [&](const Key& key) { return key.bits >> shift & (num_values - 1); };
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
