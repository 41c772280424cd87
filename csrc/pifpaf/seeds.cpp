#include "pifpaf/seeds.h"

#include <algorithm>
#include <cstddef>
#include <tuple>

namespace dgcn::pifpaf {

void append_seeds(int keypoint, const std::vector<PifCell>& cells, const ConfidenceMap& map,
                  const DecoderConfig& config, std::vector<Seed>& seeds) {
  const float map_weight = config.seed_map_weight;
  for (const PifCell& cell : cells) {
    if (cell.confidence < config.seed_threshold) continue;
    const Joint joint{map_weight * map.at(cell.x, cell.y, -1.0F) + (1.0F - map_weight) * cell.confidence, cell.x,
                      cell.y, cell.scale};
    if (joint.found() && joint.confidence >= config.seed_threshold) seeds.push_back({keypoint, cell.cell, joint});
  }
}

void sort_seeds(const DecoderConfig& config, std::vector<Seed>& seeds) {
  const auto better = [](const Seed& a, const Seed& b) {
    return std::tie(b.joint.confidence, a.keypoint, a.cell) < std::tie(a.joint.confidence, b.keypoint, b.cell);
  };
  const auto kept = static_cast<std::size_t>(config.max_seeds);
  if (seeds.size() > kept) {
    std::nth_element(seeds.begin(), seeds.begin() + config.max_seeds, seeds.end(), better);
    seeds.resize(kept);
  }
  std::sort(seeds.begin(), seeds.end(), better);
}

}  // namespace dgcn::pifpaf
