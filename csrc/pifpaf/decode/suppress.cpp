#include "pifpaf/decode/suppress.h"

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace dgcn::pifpaf {
namespace {

/// Drops persons without joints or below the given mean confidence, and sorts the others, best first.
void keep_best_first(float threshold, Persons& persons) {
  struct Ranked {
    float mean;
    std::size_t person;
  };
  std::vector<Ranked> ranking;
  for (std::size_t p = 0; p < persons.size(); ++p) {
    const float mean = mean_confidence(persons[p], persons.num_keypoints);
    if (mean >= threshold && mean > 0.0F) ranking.push_back({mean, p});
  }
  std::stable_sort(ranking.begin(), ranking.end(), [](const Ranked& a, const Ranked& b) { return a.mean > b.mean; });

  std::vector<Joint> joints;
  joints.reserve(ranking.size() * static_cast<std::size_t>(persons.num_keypoints));
  for (const Ranked& ranked : ranking)
    joints.insert(joints.end(), persons[ranked.person], persons[ranked.person] + persons.num_keypoints);
  persons.joints = std::move(joints);
}

}  // namespace

void suppress(Occupancy& occupancy, const DecoderConfig& config, Persons& persons) {
  keep_best_first(0.0F, persons);
  for (std::size_t p = 0; p < persons.size(); ++p) {
    for (int k = 0; k < persons.num_keypoints; ++k) {
      Joint& joint = persons[p][k];
      if (!joint.found()) continue;
      if (occupancy.occupied(k, joint)) {
        joint.confidence *= config.suppression_factor;
      } else {
        occupancy.mark(k, joint);
      }
      if (joint.confidence <= config.keypoint_threshold) joint = Joint{};
    }
  }
  keep_best_first(config.instance_threshold, persons);
}

}  // namespace dgcn::pifpaf
