#include "pifpaf/decode/evidence.h"

#include <algorithm>
#include <cstddef>

namespace dgcn::pifpaf {

Evidence::Evidence(const Fields& fields, int stride, PixelSize size, const DecoderConfig& config, Stopwatch& stopwatch)
    : fields_(fields), config_(config), stride_(stride), size_(size) {
  const float threshold = std::min(config.map_threshold, config.seed_threshold);
  std::vector<PifCell> cells;
  maps_.reserve(static_cast<std::size_t>(fields.num_keypoints));
  for (int k = 0; k < fields.num_keypoints; ++k) {
    read_pif(fields, k, stride, threshold, cells);
    maps_.emplace_back(cells, size, config);
    stopwatch.lap(&StageTimes::maps);
    append_seeds(k, cells, maps_.back(), config, seeds_);
    stopwatch.lap(&StageTimes::seeds);
  }
  sort_seeds(config, seeds_);
  stopwatch.lap(&StageTimes::seeds);
}

ConnectionSet Evidence::connections(const Skeleton& skeleton, float threshold) {
  ConnectionSet connections;
  connections.reserve(static_cast<std::size_t>(skeleton.num_limbs()));
  for (int limb = 0; limb < skeleton.num_limbs(); ++limb) {
    const auto [from, to] = skeleton.limb(limb);
    connections.emplace_back(fields_, limb, stride_, maps_[static_cast<std::size_t>(from)],
                             maps_[static_cast<std::size_t>(to)], size_, threshold, config_);
  }
  return connections;
}

}  // namespace dgcn::pifpaf
