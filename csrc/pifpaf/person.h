// What the decoder returns: persons, their joints and their scores.
#pragma once

#include <cstddef>
#include <vector>

#include "pifpaf/config.h"

namespace dgcn::pifpaf {

/// One keypoint of one person. All zero where the keypoint was not found.
struct Joint {
  float confidence = 0.0F;  ///< in [0, 1]
  float x = 0.0F;           ///< [px]
  float y = 0.0F;           ///< [px]
  float scale = 0.0F;       ///< size of the joint [px]

  bool found() const { return confidence > 0.0F; }
};

/// P persons of K joints each, stored as one [P, K] array.
struct Persons {
  int num_keypoints = 1;  ///< K
  std::vector<Joint> joints;

  std::size_t size() const { return joints.size() / static_cast<std::size_t>(num_keypoints); }
  /// Adds a person without joints. Invalidates pointers to the joints of others.
  Joint* append() {
    joints.resize(joints.size() + static_cast<std::size_t>(num_keypoints));
    return joints.data() + joints.size() - num_keypoints;
  }
  Joint* operator[](std::size_t person) { return joints.data() + person * static_cast<std::size_t>(num_keypoints); }
  const Joint* operator[](std::size_t person) const {
    return joints.data() + person * static_cast<std::size_t>(num_keypoints);
  }
};

/// Mean confidence over all K joints, with 0 for missing ones. Persons are sorted and dropped by it.
float mean_confidence(const Joint* person, int num_keypoints);

/// The score to report for a person: the weighted mean of its joint confidences. The `score_top` most confident joints
/// have weight `score_top_weight`, the others 1: for COCO's 17 keypoints (3, 3, 3, 1 × 14) / 23.
float person_score(const Joint* person, int num_keypoints, const DecoderConfig& config);

}  // namespace dgcn::pifpaf
