#include "pifpaf/decode/connections.h"

#include <algorithm>
#include <cmath>

namespace dgcn::pifpaf {
namespace {

float square(float value) { return value * value; }

}  // namespace

LimbConnections::LimbConnections(const Fields& fields, int limb, int stride, ConfidenceMap& from, ConfidenceMap& to,
                                 PixelSize size, float threshold, const DecoderConfig& config)
    : fields_(&fields),
      limb_(limb),
      stride_(stride),
      size_(size),
      threshold_(threshold),
      config_(&config),
      from_(&from),
      to_(&to) {}

Candidates& LimbConnections::candidates(bool backward) {
  if (!candidates_)
    candidates_.emplace(Candidates::of_limb(*fields_, limb_, stride_, size_, threshold_, *from_, *to_, *config_));
  return (*candidates_)[backward ? 1 : 0];
}

Joint LimbConnections::follow(bool backward, const Joint& start, float window) {
  Candidates& candidates = this->candidates(backward);
  const float half_scale = 0.5F * std::max(start.scale, config_->connection_min_scale);
  Window starts;
  const auto search_within = [&](float reach) {
    starts = {start.x - reach, start.x + reach, start.y - reach, start.y + reach};
  };
  search_within(window * half_scale);

  Match first, second;
  candidates.for_each_batch(starts, second.score, [&](const int* entries, std::size_t count) {
    Candidates::Batch scores{};
    candidates.score(entries, count, scores);
    candidates.weigh(entries, count, start.x, start.y, half_scale, scores);
    for (std::size_t i = 0; i < count; ++i) {
      if (!(scores[i] > 0.0F && scores[i] >= second.score)) continue;
      const Match match{entries[i], candidates.cell(entries[i]), scores[i]};
      if (!match.better_than(second) || !candidates.usable(match.index)) continue;
      second = match.better_than(first) ? first : match;
      if (match.better_than(first)) first = match;
    }
    // No score exceeds 1, so what starts further away comes to less than the second best. The margin is for rounding.
    if (count == Candidates::max_batch && second.score > 0.0F) {
      const float furthest = 1.001F * (std::sqrt(-2.0F * std::log(second.score)) + 0.001F);  // [σ]
      search_within(half_scale * std::min(window, furthest));
    }
  });
  return blend(candidates, first, second);
}

/// Steps from the best two matches to one target.
Joint LimbConnections::blend(const Candidates& candidates, const Match& first, const Match& second) const {
  if (first.index < 0) return {};
  const Joint a = candidates.target(first.index);
  const Joint alone{0.5F * first.score, a.x, a.y, a.scale};
  if (second.index < 0 || second.score < config_->blend_min_score ||
      second.score < config_->blend_min_ratio * first.score)
    return alone;
  const Joint b = candidates.target(second.index);
  if (square(a.x - b.x) + square(a.y - b.y) > square(config_->blend_max_distance * a.scale)) return alone;

  const float sum = first.score + second.score;
  if (!(sum > 0.0F)) return alone;
  const auto mean = [&](float of_first, float of_second) {
    return (first.score * of_first + second.score * of_second) / sum;
  };
  return {0.5F * sum, mean(a.x, b.x), mean(a.y, b.y), mean(a.scale, b.scale)};
}

std::vector<Connection> LimbConnections::all(bool backward) {
  Candidates& candidates = this->candidates(backward);
  std::vector<Connection> connections;
  for (int i = 0; i < candidates.size(); ++i) {
    Candidates::Batch score;
    candidates.score(&i, 1, score);
    if (score[0] > 0.0F && candidates.usable(i))
      connections.push_back({score[0], candidates.x(i), candidates.y(i), candidates.target(i), candidates.cell(i)});
  }
  std::sort(connections.begin(), connections.end(),
            [](const Connection& a, const Connection& b) { return a.cell < b.cell; });
  return connections;
}

}  // namespace dgcn::pifpaf
