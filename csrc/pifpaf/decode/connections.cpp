#include "pifpaf/decode/connections.h"

#include <algorithm>
#include <cmath>

namespace dgcn::pifpaf {
namespace {

float square(float value) { return value * value; }

}  // namespace

Candidates& LimbConnections::candidates(bool backward) {
  if (candidates_[0] == nullptr) candidates_ = make_candidates(*fields_, limb_, threshold_, *map1_, *map2_, *config_);
  return *candidates_[backward ? 1 : 0];
}

Joint LimbConnections::follow(bool backward, const Joint& start, float window) {
  Candidates& candidates = this->candidates(backward);
  const float half_scale = 0.5F * std::max(start.scale, config_->connection_min_scale);
  PixelBox starts;
  const auto set_reach = [&](float reach) {
    starts = {start.x - reach, start.x + reach, start.y - reach, start.y + reach};
  };
  set_reach(window * half_scale);

  Match first, second;
  candidates.for_each_batch(starts, second.value, [&](const int* entries, std::size_t count) {
    Candidates::Values weights;
    candidates.compute_weights(entries, count, start.x, start.y, half_scale, weights);
    for (std::size_t i = 0; i < count; ++i) {
      const int entry = entries[i];
      if (!(candidates.max_score(entry) * weights[i] >= second.value)) continue;  // saves most look-ups in the map
      const Match match{entry, candidates.cell(entry), candidates.score(entry) * weights[i]};
      if (!(match.value > 0.0F) || !match.is_better_than(second) || !candidates.is_candidate(entry)) continue;
      second = match.is_better_than(first) ? first : match;
      if (match.is_better_than(first)) first = match;
    }
    // Scores are at most 1, so starts beyond d = σ·√(−2 ln value₂) cannot beat the second best. The margin is for
    // rounding. This halves the time on fields full of large joints.
    if (count == Candidates::kMaxBatch && second.value > 0.0F) {
      const float furthest = 1.001F * (std::sqrt(-2.0F * std::log(second.value)) + 0.001F);  // [σ]
      set_reach(half_scale * std::min(window, furthest));
    }
  });
  return blend(candidates, first, second);
}

/// The joint to which the best two matches lead.
Joint LimbConnections::blend(const Candidates& candidates, const Match& first, const Match& second) const {
  if (first.entry < 0) return {};
  const Joint a = candidates.target(first.entry);
  const Joint alone{0.5F * first.value, a.x, a.y, a.scale};
  if (second.entry < 0 || second.value < config_->blend_min_score ||
      second.value < config_->blend_min_ratio * first.value)
    return alone;
  const Joint b = candidates.target(second.entry);
  if (square(a.x - b.x) + square(a.y - b.y) > square(config_->blend_max_distance * a.scale)) return alone;

  const float sum = first.value + second.value;
  if (!(sum > 0.0F)) return alone;
  const auto mean = [&](float of_first, float of_second) {
    return (first.value * of_first + second.value * of_second) / sum;
  };
  return {0.5F * sum, mean(a.x, b.x), mean(a.y, b.y), mean(a.scale, b.scale)};
}

std::vector<Connection> LimbConnections::all(bool backward) {
  Candidates& candidates = this->candidates(backward);
  std::vector<Connection> connections;
  for (int i = 0; i < candidates.size(); ++i) {
    const float score = candidates.score(i);
    if (score > 0.0F && candidates.is_candidate(i))
      connections.push_back({score, candidates.x(i), candidates.y(i), candidates.target(i), candidates.cell(i)});
  }
  std::sort(connections.begin(), connections.end(),
            [](const Connection& a, const Connection& b) { return a.cell < b.cell; });
  return connections;
}

}  // namespace dgcn::pifpaf
