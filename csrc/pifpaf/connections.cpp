#include "pifpaf/connections.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace dgcn::pifpaf {
namespace {

constexpr int min_bucket_edge = 32;  // [px], a few times the window of a typical joint
constexpr int max_buckets_per_axis = 64;

/// A candidate and its score from a given start.
struct Match {
  const Connection* connection = nullptr;
  float score = 0.0F;

  bool better_than(const Match& other) const {
    if (other.connection == nullptr || score > other.score) return true;
    return score == other.score && connection->cell < other.connection->cell;
  }
};

float square(float value) { return value * value; }

/// Steps from the best two matches to one target.
Joint blend(const Match& first, const Match& second, const DecoderConfig& config) {
  if (first.connection == nullptr) return {};
  const Joint& a = first.connection->target;
  const Joint alone{0.5F * first.score, a.x, a.y, a.scale};
  if (second.connection == nullptr || second.score < config.blend_min_score ||
      second.score < config.blend_min_ratio * first.score)
    return alone;
  const Joint& b = second.connection->target;
  if (square(a.x - b.x) + square(a.y - b.y) > square(config.blend_max_distance * a.scale)) return alone;

  const float sum = first.score + second.score;
  if (!(sum > 0.0F)) return alone;
  const auto mean = [&](float of_first, float of_second) {
    return (first.score * of_first + second.score * of_second) / sum;
  };
  return {0.5F * sum, mean(a.x, b.x), mean(a.y, b.y), mean(a.scale, b.scale)};
}

}  // namespace

void append_connections(const std::vector<PafCell>& cells, bool backward, const ConfidenceMap& map, float threshold,
                        const DecoderConfig& config, std::vector<Connection>& connections) {
  const float map_weight = config.connection_map_weight;
  for (const PafCell& cell : cells) {
    if (cell.confidence < threshold) continue;
    Connection connection{0.0F, cell.x1, cell.y1, {0.0F, cell.x2, cell.y2, cell.scale2}, cell.cell};
    if (backward) connection = {0.0F, cell.x2, cell.y2, {0.0F, cell.x1, cell.y1, cell.scale1}, cell.cell};
    const float support = map.at(connection.target.x, connection.target.y, 0.0F);
    connection.score = cell.confidence * (1.0F - map_weight + map_weight * support);
    if (connection.score > threshold) connections.push_back(connection);
  }
}

BucketGrid::BucketGrid(PixelSize size) {
  const int edge = std::max(min_bucket_edge, std::max(size.height, size.width) / max_buckets_per_axis + 1);
  edge_ = static_cast<float>(edge);
  rows_ = size.height / edge + 1;
  columns_ = size.width / edge + 1;
}

void ConnectionList::assign(const std::vector<Connection>& candidates, const BucketGrid& grid) {
  candidates_.clear();
  bucket_begin_.clear();
  if (candidates.empty()) return;

  const auto bucket_of = [&](const Connection& c) {
    return static_cast<std::size_t>(grid.bucket(grid.row(c.y), grid.column(c.x)));
  };
  // Counting sort: bucket b is counted at [b + 2], its running begin lies at [b + 1], and once all are placed that has
  // become its end, which is where b + 1 begins.
  bucket_begin_.assign(static_cast<std::size_t>(grid.num_buckets()) + 2, 0);
  for (const Connection& candidate : candidates) ++bucket_begin_[bucket_of(candidate) + 2];
  for (std::size_t b = 2; b < bucket_begin_.size(); ++b) bucket_begin_[b] += bucket_begin_[b - 1];
  candidates_.resize(candidates.size());
  for (const Connection& candidate : candidates)
    candidates_[static_cast<std::size_t>(bucket_begin_[bucket_of(candidate) + 1]++)] = candidate;
}

Joint ConnectionList::follow(const Joint& start, float window, const BucketGrid& grid,
                             const DecoderConfig& config) const {
  if (candidates_.empty()) return {};
  const float half_scale = 0.5F * std::max(start.scale, config.connection_min_scale);
  const float reach = window * half_scale;
  const float left = start.x - reach, right = start.x + reach;
  const float top = start.y - reach, bottom = start.y + reach;

  Match first, second;
  const int first_column = grid.column(left), last_column = grid.column(right), last_row = grid.row(bottom);
  for (int row = grid.row(top); row <= last_row; ++row) {
    const int begin = bucket_begin_[static_cast<std::size_t>(grid.bucket(row, first_column))];
    const int end = bucket_begin_[static_cast<std::size_t>(grid.bucket(row, last_column)) + 1];
    for (int i = begin; i < end; ++i) {
      const Connection& c = candidates_[static_cast<std::size_t>(i)];
      if (!(c.x >= left && c.x <= right && c.y >= top && c.y <= bottom)) continue;
      const float d2 = square(c.x - start.x) + square(c.y - start.y);
      const Match match{&c, c.score * std::exp(-0.5F * d2 / square(half_scale))};
      if (match.better_than(first)) {
        second = first;
        first = match;
      } else if (match.better_than(second)) {
        second = match;
      }
    }
  }
  return blend(first, second, config);
}

}  // namespace dgcn::pifpaf
