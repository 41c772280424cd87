// Every constant of the decoding algorithm, in one struct.
#pragma once

#include <cstdint>
#include <limits>

namespace dgcn::pifpaf {

/// Constants of the greedy decoder, in the order in which it uses them. The defaults are OpenPifPaf's.
///
/// Units: px are pixels of the network input; a "scale" is the size of a joint as the fields give it, in px.
struct DecoderConfig {
  // Confidence map.
  float map_threshold = 0.3F;   ///< smallest confidence of a PIF cell that adds to the map
  float map_neighbors = 16.0F;  ///< a cell adds confidence / map_neighbors: 16 cells of confidence 1 saturate a pixel
  float map_sigma = 0.5F;       ///< radius within which a cell adds to the map [scales]
  float map_min_sigma = 1.0F;   ///< smallest such radius [px]
  std::int64_t max_map_pixels = std::int64_t{1} << 26;  ///< largest input [px]; bounds the memory of a decode

  // Seeds.
  float seed_threshold = 0.2F;   ///< smallest confidence of a seed: of its PIF cell, and of the average with the map
  float seed_map_weight = 0.9F;  ///< weight of the map in that average, in [0, 1]
  int max_seeds = 200000;        ///< only the best are kept; about 12 for each of 17 × 1,000 joints

  // Connections.
  float connection_threshold = 0.3F;   ///< smallest confidence of a PAF cell; a connection's score must exceed it too
  float connection_map_weight = 0.9F;  ///< w in a connection's score, confidence·(1 − w + w·map at the target)
  float connection_window = 1.0F;      ///< side of the square around a joint in which its connections start [scales]
  float connection_min_scale = 0.5F;   ///< smallest scale that sets the size of this square [px]
  float blend_min_score = 0.01F;       ///< the two best connections are averaged if the second scores at least this,
  float blend_min_ratio = 0.5F;        ///< ... at least this fraction of the best one's score,
  float blend_max_distance = 0.5F;     ///< ... and their targets are this close [scales of the best target]

  // Growing.
  int max_persons = 1000;                    ///< growing stops at this number, before suppression drops any
  float keypoint_threshold = 0.15F;          ///< smallest confidence of a joint
  float keypoint_threshold_relative = 0.5F;  ///< smallest confidence relative to the joint it was grown from
  bool reverse_match = true;                 ///< a new joint must lead back to the joint it was grown from
  float reverse_max_distance = 1.0F;         ///< ... within this L1 distance [scales of that joint]

  // Occupancy, among seeds and in suppression.
  float occupancy_reduction = 2.0F;      ///< edge of a cell of the occupancy bitmap [px]
  float occupancy_min_half_side = 2.0F;  ///< smallest half side of the square that a joint occupies [bitmap cells]

  // Suppression.
  float suppression_factor = 1e-5F;  ///< multiplies the confidence of a joint whose place a better person occupies
  float instance_threshold = 0.15F;  ///< smallest mean confidence of a person

  // Force-complete: every person gets every keypoint that its skeleton reaches. Sets both keypoint thresholds and the
  // instance threshold to zero.
  bool force_complete = false;
  float complete_threshold = 0.001F;  ///< replaces connection_threshold when persons are completed
  float complete_window = 4.0F;       ///< replaces connection_window when persons are completed [scales]
  float complete_confidence = 1e-5F;  ///< confidence of a joint that is copied from its neighbour

  // Refinement: joints move to the mean of the PIF cells that point near them. Not part of OpenPifPaf.
  int refine_rounds = 0;          ///< number of times that each joint moves; 0: none
  float refine_threshold = 0.1F;  ///< smallest confidence of a PIF cell that counts
  float refine_sigma = 1.0F;      ///< standard deviation of a cell's weight over its distance from the joint [scales]
  float refine_min_sigma = 1.0F;  ///< smallest such deviation [cells]

  // Person score.
  int score_top = 3;              ///< number of most confident joints that are weighted more
  float score_top_weight = 3.0F;  ///< their weight; the other joints have weight 1

  /// Throws std::invalid_argument naming the first option out of range.
  void validate() const;
};

/// The list of options: calls visit(name, &DecoderConfig::option, low, high) for each, in order. Valid values are
/// [low, high]. Validation, the Python binding and the fuzzer all take the options from here.
template <typename Visit>
void visit_options(const Visit& visit) {
  using Config = DecoderConfig;
  constexpr float kSmallest = 1e-3F, kLargest = 1e6F;  // of lengths and divisors: keeps the arithmetic finite
  constexpr int kLargestInt = std::numeric_limits<int>::max();
  visit("map_threshold", &Config::map_threshold, 0.0F, 1.0F);
  visit("map_neighbors", &Config::map_neighbors, kSmallest, kLargest);
  visit("map_sigma", &Config::map_sigma, 0.0F, kLargest);
  visit("map_min_sigma", &Config::map_min_sigma, kSmallest, kLargest);
  // 2³⁰: an edge may be that long, and its length rounded up to whole buckets must still fit an int.
  visit("max_map_pixels", &Config::max_map_pixels, std::int64_t{1}, std::int64_t{1} << 30);
  visit("seed_threshold", &Config::seed_threshold, 0.0F, 1.0F);
  visit("seed_map_weight", &Config::seed_map_weight, 0.0F, 1.0F);
  visit("max_seeds", &Config::max_seeds, 1, kLargestInt);
  visit("connection_threshold", &Config::connection_threshold, 0.0F, 1.0F);
  visit("connection_map_weight", &Config::connection_map_weight, 0.0F, 1.0F);
  visit("connection_window", &Config::connection_window, 0.0F, kLargest);
  visit("connection_min_scale", &Config::connection_min_scale, kSmallest, kLargest);
  visit("blend_min_score", &Config::blend_min_score, 0.0F, kLargest);
  visit("blend_min_ratio", &Config::blend_min_ratio, 0.0F, kLargest);
  visit("blend_max_distance", &Config::blend_max_distance, 0.0F, kLargest);
  visit("max_persons", &Config::max_persons, 1, kLargestInt);
  visit("keypoint_threshold", &Config::keypoint_threshold, 0.0F, 1.0F);
  visit("keypoint_threshold_relative", &Config::keypoint_threshold_relative, 0.0F, kLargest);
  visit("reverse_match", &Config::reverse_match, false, true);
  visit("reverse_max_distance", &Config::reverse_max_distance, 0.0F, kLargest);
  visit("occupancy_reduction", &Config::occupancy_reduction, 1.0F, kLargest);
  visit("occupancy_min_half_side", &Config::occupancy_min_half_side, 0.0F, kLargest);
  visit("suppression_factor", &Config::suppression_factor, 0.0F, 1.0F);
  visit("instance_threshold", &Config::instance_threshold, 0.0F, 1.0F);
  visit("force_complete", &Config::force_complete, false, true);
  visit("complete_threshold", &Config::complete_threshold, 0.0F, 1.0F);
  visit("complete_window", &Config::complete_window, 0.0F, kLargest);
  visit("complete_confidence", &Config::complete_confidence, 1e-12F, 1.0F);  // 0 would mean "not found"
  visit("refine_rounds", &Config::refine_rounds, 0, 10);
  visit("refine_threshold", &Config::refine_threshold, 0.0F, 1.0F);
  visit("refine_sigma", &Config::refine_sigma, 0.0F, kLargest);
  visit("refine_min_sigma", &Config::refine_min_sigma, kSmallest, kLargest);
  visit("score_top", &Config::score_top, 0, kLargestInt);
  visit("score_top_weight", &Config::score_top_weight, 0.0F, kLargest);
}

}  // namespace dgcn::pifpaf
