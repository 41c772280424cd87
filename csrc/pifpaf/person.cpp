#include "pifpaf/person.h"

#include <algorithm>
#include <functional>

namespace dgcn::pifpaf {

float mean_confidence(const Joint* person, int num_keypoints) {
  float sum = 0.0F;
  for (int k = 0; k < num_keypoints; ++k) sum += person[k].confidence;
  return sum / static_cast<float>(num_keypoints);
}

float person_score(const Joint* person, int num_keypoints, const DecoderConfig& config) {
  std::vector<float> confidences;
  confidences.reserve(static_cast<std::size_t>(num_keypoints));
  for (int k = 0; k < num_keypoints; ++k) confidences.push_back(person[k].confidence);
  std::sort(confidences.begin(), confidences.end(), std::greater<>());

  float sum = 0.0F, weights = 0.0F;
  for (int rank = 0; rank < num_keypoints; ++rank) {
    const float weight = rank < config.score_top ? config.score_top_weight : 1.0F;
    sum += weight * confidences[static_cast<std::size_t>(rank)];
    weights += weight;
  }
  return weights > 0.0F ? sum / weights : 0.0F;
}

}  // namespace dgcn::pifpaf
