#include "pifpaf/config.h"

#include <limits>
#include <sstream>
#include <stdexcept>

namespace dgcn::pifpaf {
namespace {

template <typename T>
void require_range(const char* name, T value, T low, T high) {
  if (value >= low && value <= high) return;  // false for NaN
  std::ostringstream message;
  message << name << " must be in [" << low << ", " << high << "], got " << value;
  throw std::invalid_argument(message.str());
}

}  // namespace

void DecoderConfig::validate() const {
  const float least = 1e-3F, most = 1e6F;  // of lengths and of divisors: keeps the arithmetic finite
  require_range("map_threshold", map_threshold, 0.0F, 1.0F);
  require_range("map_neighbors", map_neighbors, least, most);
  require_range("map_sigma", map_sigma, 0.0F, most);
  require_range("map_min_sigma", map_min_sigma, least, most);
  // Half of what an int can count: an edge may be as long, and what is rounded up from it still is an int.
  require_range("max_map_pixels", max_map_pixels, std::int64_t{1}, std::int64_t{1} << 30);
  require_range("seed_threshold", seed_threshold, 0.0F, 1.0F);
  require_range("seed_map_weight", seed_map_weight, 0.0F, 1.0F);
  require_range("max_seeds", max_seeds, 1, std::numeric_limits<int>::max());
  require_range("connection_threshold", connection_threshold, 0.0F, 1.0F);
  require_range("connection_map_weight", connection_map_weight, 0.0F, 1.0F);
  require_range("connection_window", connection_window, 0.0F, most);
  require_range("connection_min_scale", connection_min_scale, least, most);
  require_range("blend_min_score", blend_min_score, 0.0F, most);
  require_range("blend_min_ratio", blend_min_ratio, 0.0F, most);
  require_range("blend_max_distance", blend_max_distance, 0.0F, most);
  require_range("max_persons", max_persons, 1, std::numeric_limits<int>::max());
  require_range("keypoint_threshold", keypoint_threshold, 0.0F, 1.0F);
  require_range("keypoint_threshold_relative", keypoint_threshold_relative, 0.0F, most);
  require_range("reverse_max_distance", reverse_max_distance, 0.0F, most);
  require_range("occupancy_reduction", occupancy_reduction, 1.0F, most);
  require_range("occupancy_min_half_side", occupancy_min_half_side, 0.0F, most);
  require_range("suppression_factor", suppression_factor, 0.0F, 1.0F);
  require_range("instance_threshold", instance_threshold, 0.0F, 1.0F);
  require_range("complete_threshold", complete_threshold, 0.0F, 1.0F);
  require_range("complete_window", complete_window, 0.0F, most);
  require_range("complete_confidence", complete_confidence, 1e-12F, 1.0F);  // a joint with 0 is a missing one
  require_range("score_top", score_top, 0, std::numeric_limits<int>::max());
  require_range("score_top_weight", score_top_weight, 0.0F, most);
}

}  // namespace dgcn::pifpaf
