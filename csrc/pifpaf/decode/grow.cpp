#include "pifpaf/decode/grow.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace dgcn::pifpaf {

void Grower::grow(std::vector<LimbConnections>& connections, const GrowPass& pass, Joint* person) {
  heap_.clear();
  num_pushed_ = 0;
  for (int k = 0; k < skeleton_.num_keypoints(); ++k) {
    if (person[k].found()) push_limbs(k, person);
  }
  while (!heap_.empty()) {
    Branch branch = pop();
    const DirectedLimb& limb = *branch.limb;
    if (person[limb.end].found()) continue;
    if (branch.joint.found()) {
      person[limb.end] = branch.joint;
      push_limbs(limb.end, person);
      continue;
    }
    branch.joint = connect(connections, pass, limb, person[limb.start]);
    branch.key = branch.joint.confidence;
    if (branch.joint.found()) push(branch);
  }
}

void Grower::fill_missing(Joint* person) {
  std::vector<int> queue;  // breadth-first search from all joints found
  for (int k = 0; k < skeleton_.num_keypoints(); ++k) {
    if (person[k].found()) queue.push_back(k);
  }
  std::stable_sort(queue.begin(), queue.end(),
                   [&](int a, int b) { return person[a].confidence > person[b].confidence; });
  for (std::size_t i = 0; i < queue.size(); ++i) {
    const Joint start = person[queue[i]];
    for (const DirectedLimb& limb : skeleton_.outgoing(queue[i])) {
      if (person[limb.end].found()) continue;
      person[limb.end] = {config_.complete_confidence, start.x, start.y, start.scale};
      queue.push_back(limb.end);
    }
  }
}

void Grower::push_limbs(int keypoint, const Joint* person) {
  const float key = std::sqrt(person[keypoint].confidence);
  for (const DirectedLimb& limb : skeleton_.outgoing(keypoint)) {
    if (!person[limb.end].found()) push({key, 0, &limb, {}});
  }
}

void Grower::push(Branch branch) {
  branch.order = num_pushed_++;
  heap_.push_back(branch);
  std::push_heap(heap_.begin(), heap_.end(), comes_later);
}

Grower::Branch Grower::pop() {
  std::pop_heap(heap_.begin(), heap_.end(), comes_later);
  const Branch branch = heap_.back();
  heap_.pop_back();
  return branch;
}

bool Grower::comes_later(const Branch& a, const Branch& b) {
  return a.key != b.key ? a.key < b.key : a.order > b.order;
}

/// The joint at the end of a limb; not found if there is no connection, it is too weak or the reverse match fails.
Joint Grower::connect(std::vector<LimbConnections>& connections, const GrowPass& pass, const DirectedLimb& limb,
                      const Joint& start) const {
  LimbConnections& candidates = connections[static_cast<std::size_t>(limb.limb)];
  Joint joint = candidates.follow(limb.backward, start, pass.window);
  joint.confidence = std::sqrt(joint.confidence * start.confidence);
  if (joint.confidence < config_.keypoint_threshold ||
      joint.confidence < config_.keypoint_threshold_relative * start.confidence)
    return {};
  if (!pass.reverse_match || !joint.found()) return joint;

  const Joint back = candidates.follow(!limb.backward, joint, pass.window);
  const float distance = std::fabs(back.x - start.x) + std::fabs(back.y - start.y);
  const bool leads_back = back.found() && distance <= config_.reverse_max_distance * start.scale;
  return leads_back ? joint : Joint{};
}

}  // namespace dgcn::pifpaf
