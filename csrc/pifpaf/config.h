// Every constant of the decoding algorithm, in one struct that is passed in and never changes.
#pragma once

#include <cstdint>

namespace dgcn::pifpaf {

/// Constants of the greedy decoder, in the order in which it uses them. The defaults are OpenPifPaf's.
///
/// Units: px are pixels of the network input; a "scale" is the size of a joint as the fields give it, in px.
struct DecoderConfig {
  // Confidence map.
  float map_threshold = 0.3F;   ///< PIF cells with at least this confidence are painted
  float map_neighbors = 16.0F;  ///< a cell adds confidence / map_neighbors: so many agreeing cells saturate a pixel
  float map_sigma = 0.5F;       ///< radius of a painted cell [scales]
  float map_min_sigma = 1.0F;   ///< smallest radius of a painted cell [px]
  std::int64_t max_map_pixels = std::int64_t{1} << 26;  ///< larger inputs are refused [px], bounds the memory

  // Seeds.
  float seed_threshold = 0.2F;   ///< smallest confidence of a seed, of the cell and of its blend with the map
  float seed_map_weight = 0.9F;  ///< share of the map in a seed's confidence, in [0, 1]; the rest is the cell's
  int max_seeds = 200000;  ///< of an image's seeds the best so many are tried: 12 cells of each of 17 × 1,000 joints

  // Connections.
  float connection_threshold = 0.3F;  ///< smallest confidence of a PAF cell; its score must exceed it
  float connection_map_weight =
      0.9F;                        ///< share of a connection's score that the map at its target vouches for, in [0, 1]
  float connection_window = 1.0F;  ///< width of the window around a joint in which connections start [scales]
  float connection_min_scale = 0.5F;  ///< smallest scale a joint searches with [px]
  float blend_min_score = 0.01F;      ///< the second best connection is blended in from this score
  float blend_min_ratio = 0.5F;       ///< ... and from this fraction of the best one's score
  float blend_max_distance = 0.5F;  ///< ... and up to this distance between the two targets [scales of the best target]

  // Growing.
  int max_persons = 1000;                    ///< growing stops at so many, suppressed and dropped ones included
  float keypoint_threshold = 0.15F;          ///< smallest confidence of a joint
  float keypoint_threshold_relative = 0.5F;  ///< smallest confidence relative to the joint it was grown from
  bool reverse_match = true;                 ///< a new joint must lead back to the joint it was grown from
  float reverse_max_distance = 1.0F;         ///< ... within this L1 distance [scales of that joint]

  // Occupancy, among seeds and in suppression.
  float occupancy_reduction = 2.0F;      ///< edge of a cell of the occupancy bitmap [px]
  float occupancy_min_half_side = 2.0F;  ///< smallest half side of the square that a joint occupies [bitmap cells]

  // Suppression.
  float suppression_factor = 1e-5F;  ///< a joint where a better person's has been keeps this share, in [0, 1]
  float instance_threshold = 0.15F;  ///< smallest mean confidence of a person

  // Force-complete: every person gets every keypoint that its skeleton reaches. Treats both keypoint thresholds and the
  // instance threshold as zero.
  bool force_complete = false;
  float complete_threshold = 0.001F;  ///< replaces connection_threshold when persons are completed
  float complete_window = 4.0F;       ///< replaces connection_window when persons are completed [scales]
  float complete_confidence = 1e-5F;  ///< confidence of a joint that is copied from its neighbour

  // Person score.
  int score_top = 3;              ///< how many of the most confident joints weigh more
  float score_top_weight = 3.0F;  ///< their weight; the others weigh 1

  /// Throws std::invalid_argument naming the first field out of range.
  void validate() const;
};

}  // namespace dgcn::pifpaf
