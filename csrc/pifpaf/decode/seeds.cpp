#include "pifpaf/decode/seeds.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "common/radix_sort.h"

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

// A radix sort: with std::stable_sort a whole decode of 20 persons takes 15 % longer, of 50 persons 22 %.
void sort_seeds(const DecoderConfig& config, std::vector<Seed>& seeds) {
  struct Key {
    std::uint32_t bits;  // of the confidence, which is positive; inverted: ascending bits are descending confidences
    std::uint32_t seed;
  };
  std::vector<Key> keys;
  keys.reserve(seeds.size());
  for (const Seed& seed : seeds) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &seed.joint.confidence, sizeof bits);
    keys.push_back({~bits, static_cast<std::uint32_t>(keys.size())});
  }
  radix_sort(keys);

  keys.resize(std::min(keys.size(), static_cast<std::size_t>(config.max_seeds)));
  std::vector<Seed> best;
  best.reserve(keys.size());
  for (const Key& key : keys) best.push_back(seeds[key.seed]);
  seeds = std::move(best);
}

}  // namespace dgcn::pifpaf
