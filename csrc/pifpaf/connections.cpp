#include "pifpaf/connections.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace dgcn::pifpaf {
namespace {

float square(float value) { return value * value; }

}  // namespace

LimbConnections::LimbConnections(const Fields& fields, int limb, int stride, ConfidenceMap& from, ConfidenceMap& to,
                                 PixelSize size, float threshold, const DecoderConfig& config)
    : fields_(&fields),
      limb_(limb),
      stride_(stride),
      threshold_(threshold),
      config_(&config),
      grid_(size),
      directions_{Direction{&to, {}}, Direction{&from, {}}} {}

Buckets<LimbConnections::Candidate>& LimbConnections::candidates(bool backward) {
  Direction& direction = directions_[backward ? 1 : 0];
  if (direction.indexed) return direction.candidates;
  if (!read_) read_paf(*fields_, limb_, stride_, threshold_, cells_);
  read_ = direction.indexed = true;
  if (cells_.empty()) return direction.candidates;

  const auto candidate = [&](std::size_t i) {
    const PafCell& cell = cells_[i];
    return Candidate{-cell.confidence, backward ? cell.x2 : cell.x1, backward ? cell.y2 : cell.y1, static_cast<int>(i)};
  };
  const auto bucket_of = [&](const Candidate& c) { return grid_.bucket(grid_.row(c.y), grid_.column(c.x)); };
  direction.candidates.reset(grid_.num_buckets());
  for (std::size_t i = 0; i < cells_.size(); ++i) direction.candidates.announce(bucket_of(candidate(i)));
  direction.candidates.begin();
  for (std::size_t i = 0; i < cells_.size(); ++i) direction.candidates.place(bucket_of(candidate(i)), candidate(i));
  return direction.candidates;
}

float LimbConnections::score(bool backward, const Candidate& candidate) {
  if (candidate.score >= 0.0F) return candidate.score;
  const Joint to = target(backward, candidate.index);
  const float support = directions_[backward ? 1 : 0].map->at(to.x, to.y, 0.0F);
  const float map_weight = config_->connection_map_weight;
  const float score = -candidate.score * (1.0F - map_weight + map_weight * support);
  return score > threshold_ ? score : 0.0F;
}

Joint LimbConnections::target(bool backward, int index) const {
  const PafCell& cell = cells_[static_cast<std::size_t>(index)];
  return backward ? Joint{0.0F, cell.x1, cell.y1, cell.scale1} : Joint{0.0F, cell.x2, cell.y2, cell.scale2};
}

Joint LimbConnections::follow(bool backward, const Joint& start, float window) {
  Buckets<Candidate>& buckets = candidates(backward);
  if (buckets.empty()) return {};
  const float half_scale = 0.5F * std::max(start.scale, config_->connection_min_scale);
  const float reach = window * half_scale;
  const float left = start.x - reach, right = start.x + reach;
  const float top = start.y - reach, bottom = start.y + reach;
  const float per_exponent = 0.5F / square(half_scale);

  Match first, second;
  const int first_column = grid_.column(left), last_column = grid_.column(right), last_row = grid_.row(bottom);
  for (int row = grid_.row(top); row <= last_row; ++row) {
    Candidate* const end = buckets.end_of(grid_.bucket(row, last_column));
    for (Candidate* c = buckets.first_of(grid_.bucket(row, first_column)); c != end; ++c) {
      if (!((c->x >= left) & (c->x <= right) & (c->y >= top) & (c->y <= bottom))) continue;
      const float d2 = square(c->x - start.x) + square(c->y - start.y);
      // exp(t) > 1 + t + t²/2, and no score exceeds the confidence: what cannot be among the best two is told from them
      // at once. The margin is for rounding.
      const float t = d2 * per_exponent;
      if (std::fabs(c->score) * 1.0001F < second.score * (1.0F + t + 0.5F * t * t)) continue;
      c->score = score(backward, *c);
      if (!(c->score > 0.0F)) continue;
      const Match match{c->index, c->score * std::exp(-0.5F * d2 / square(half_scale))};
      if (match.better_than(first)) {
        second = first;
        first = match;
      } else if (match.better_than(second)) {
        second = match;
      }
    }
  }
  return blend(backward, first, second);
}

/// Steps from the best two matches to one target.
Joint LimbConnections::blend(bool backward, const Match& first, const Match& second) const {
  if (first.index < 0) return {};
  const Joint a = target(backward, first.index);
  const Joint alone{0.5F * first.score, a.x, a.y, a.scale};
  if (second.index < 0 || second.score < config_->blend_min_score ||
      second.score < config_->blend_min_ratio * first.score)
    return alone;
  const Joint b = target(backward, second.index);
  if (square(a.x - b.x) + square(a.y - b.y) > square(config_->blend_max_distance * a.scale)) return alone;

  const float sum = first.score + second.score;
  if (!(sum > 0.0F)) return alone;
  const auto mean = [&](float of_first, float of_second) {
    return (first.score * of_first + second.score * of_second) / sum;
  };
  return {0.5F * sum, mean(a.x, b.x), mean(a.y, b.y), mean(a.scale, b.scale)};
}

std::vector<Connection> LimbConnections::all(bool backward) {
  std::vector<Connection> connections;
  for (const Candidate& c : candidates(backward).items()) {
    const float known = score(backward, c);
    if (!(known > 0.0F)) continue;
    connections.push_back({known, c.x, c.y, target(backward, c.index), cells_[static_cast<std::size_t>(c.index)].cell});
  }
  std::sort(connections.begin(), connections.end(),
            [](const Connection& a, const Connection& b) { return a.cell < b.cell; });
  return connections;
}

}  // namespace dgcn::pifpaf
