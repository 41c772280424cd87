#include "pifpaf/decode/candidates.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "pifpaf/decode/buckets.h"

namespace dgcn::pifpaf {
namespace {

constexpr int kBucketEdge = 64;  // [px]

int divide_up(int value, int divisor) { return (value + divisor - 1) / divisor; }

/// Copies of the confident cells, sorted by the bucket of their start. A score replaces the confidence once it is
/// computed. With `scores_at_once` all are computed at the start, and only cells whose score exceeds the threshold are
/// copied. Otherwise a score is computed when a search first finds the cell.
class CopiedCandidates final : public Candidates {
 public:
  CopiedCandidates(const FieldReader& fields, int limb, bool backward, const std::vector<int>& cells,
                   const PafCells& paf, float threshold, bool scores_at_once, ConfidenceMap& target_map,
                   const DecoderConfig& config)
      : Candidates(fields, limb, backward, threshold, 1.0F, target_map, config) {
    struct Kept {
      std::size_t i, bucket;
      float score;
    };
    const Arrays planes = directed(paf, backward);
    std::vector<float> maps(scores_at_once ? cells.size() : 0);
    target_map.look_up(planes.target_x, planes.target_y, maps.size(), 0.0F, maps.data());
    const BucketGrid grid(fields.size(), kBucketEdge);
    BucketSort sort;
    sort.reset(grid.num_buckets());
    std::vector<Kept> kept;
    kept.reserve(cells.size());
    for (std::size_t i = 0; i < cells.size(); ++i) {
      const float score = scores_at_once ? score_at(planes.confidence[i], maps[i]) : planes.confidence[i];
      if (!(score > 0.0F)) continue;
      kept.push_back({i, grid.bucket(grid.row(planes.y[i]), grid.column(planes.x[i])), score});
      sort.count(kept.back().bucket);
    }
    sort.start_inserting();

    size_ = static_cast<int>(kept.size());
    width_ = kTileWidth;
    height_ = divide_up(size_, kTileSize) * kTileHeight;
    const auto pitch = static_cast<std::size_t>(height_ * width_);
    copies_.assign(5 * pitch, std::numeric_limits<float>::quiet_NaN());  // NaN: in no window
    float* const out = copies_.data();
    cells_.resize(kept.size());
    is_scored_.assign(kept.size(), scores_at_once);
    for (const auto& [i, bucket, score] : kept) {
      const std::size_t entry = sort.insert(bucket);
      cells_[entry] = cells[i];
      const float values[] = {score, planes.x[i], planes.y[i], planes.target_x[i], planes.target_y[i]};
      for (std::size_t component = 0; component < 5; ++component) out[component * pitch + entry] = values[component];
    }
    arrays_ = {out, out + pitch, out + 2 * pitch, out + 3 * pitch, out + 4 * pitch};
  }

  int cell(int entry) const override { return cells_[static_cast<std::size_t>(entry)]; }
  float score(int entry) override {
    const auto i = static_cast<std::size_t>(entry);
    if (!is_scored_[i]) {
      copies_[i] = compute_score(entry);
      is_scored_[i] = true;
    }
    return copies_[i];
  }

 private:
  bool is_usable(int) const override { return true; }

  std::vector<int> cells_;       ///< [size()]
  std::vector<bool> is_scored_;  ///< [size()]
  std::vector<float> copies_;    ///< [5, height_, width_]
};

/// All cells of a PAF field, unsorted; read in place if possible.
class FieldCandidates final : public Candidates {
 public:
  FieldCandidates(const FieldReader& fields, int limb, bool backward, std::shared_ptr<const PafCells> paf,
                  float threshold, ConfidenceMap& target_map, const DecoderConfig& config)
      : Candidates(fields, limb, backward, threshold, paf->to_px, target_map, config), paf_(std::move(paf)) {
    arrays_ = directed(*paf_, backward);
    size_ = fields.height() * fields.width();
    height_ = fields.height();
    width_ = fields.width();
  }

  int cell(int entry) const override { return entry; }
  float score(int entry) override { return compute_score(entry); }

 private:
  bool is_usable(int entry) const override {
    const auto is_valid = [&](const float* coordinates) { return is_valid_px(coordinates[entry] * to_px_); };
    return arrays_.confidence[entry] >= threshold_ && std::isfinite(arrays_.confidence[entry]) && is_valid(arrays_.x) &&
           is_valid(arrays_.y) && is_valid(arrays_.target_x) && is_valid(arrays_.target_y);
  }

  std::shared_ptr<const PafCells> paf_;
};

}  // namespace

std::array<std::unique_ptr<Candidates>, 2> make_candidates(const FieldReader& fields, int limb, float threshold,
                                                           ConfidenceMap& map1, ConfidenceMap& map2,
                                                           const DecoderConfig& config) {
  const bool has_tiles = fields.height() >= kTileHeight && fields.width() >= kTileWidth;
  const std::size_t few = has_tiles ? fields.plane() / 4 : fields.plane();
  const std::vector<int> cells = fields.find_paf(limb, threshold, few);
  if (cells.size() <= few) {
    const PafCells paf = fields.copy_paf(limb, cells);
    const bool at_once = threshold >= config.connection_threshold;
    return {std::make_unique<CopiedCandidates>(fields, limb, false, cells, paf, threshold, at_once, map2, config),
            std::make_unique<CopiedCandidates>(fields, limb, true, cells, paf, threshold, at_once, map1, config)};
  }
  const auto paf = std::make_shared<const PafCells>(fields.paf(limb));
  return {std::make_unique<FieldCandidates>(fields, limb, false, paf, threshold, map2, config),
          std::make_unique<FieldCandidates>(fields, limb, true, paf, threshold, map1, config)};
}

Candidates::Arrays Candidates::directed(const PafCells& paf, bool backward) {
  if (backward) return {paf.confidence, paf.x2, paf.y2, paf.x1, paf.y1};
  return {paf.confidence, paf.x1, paf.y1, paf.x2, paf.y2};
}

float Candidates::compute_score(int entry) {
  const float x = arrays_.target_x[entry] * to_px_, y = arrays_.target_y[entry] * to_px_;
  float map = 0.0F;
  target_map_.look_up(&x, &y, 1, 0.0F, &map);
  return score_at(arrays_.confidence[entry], map);
}

float Candidates::score_at(float confidence, float map) const {
  const float score = std::min(confidence, 1.0F) * (1.0F - map_weight_ + map_weight_ * map);
  return score > threshold_ ? score : 0.0F;
}

void Candidates::compute_weights(const int* entries, std::size_t count, float x, float y, float sigma,
                                 Values& weights) const {
  Values entry_x{}, entry_y{};
  for (std::size_t i = 0; i < count; ++i) {
    entry_x[i] = this->x(entries[i]);
    entry_y[i] = this->y(entries[i]);
  }
  weights.fill(1.0F);
  kernels_->apply_gaussian(entry_x.data(), entry_y.data(), count, x, y, sigma, weights.data());
}

Candidates::TilePosition Candidates::tile_position(int tile) const {
  const int tiles_per_row = divide_up(width_, kTileWidth);
  const int row = tile / tiles_per_row * kTileHeight, column = tile % tiles_per_row * kTileWidth;
  const int top = std::min(row, height_ - kTileHeight), left = std::min(column, width_ - kTileWidth);
  const std::uint32_t own_in_row = 0xFFU << (column - left) & 0xFFU;
  return {top * width_ + left, own_in_row * 0x01010101U & ~std::uint32_t{0} << (row - top) * kTileWidth};
}

void Candidates::bound_tiles() {
  const int num_tiles = divide_up(height_, kTileHeight) * divide_up(width_, kTileWidth);
  const auto num_bounds = static_cast<std::size_t>(divide_up(num_tiles, kTileSize) * kTileSize);
  bounds_.assign(4 * num_bounds, std::numeric_limits<float>::quiet_NaN());  // NaN: overlaps no window
  for (int tile = 0; tile < num_tiles; ++tile) {
    const PixelBox box = kernels_->bound_starts(tile_at(tile_position(tile).entry), threshold_);
    float* side = bounds_.data() + tile;
    for (const float value : {box.left, box.right, box.top, box.bottom}) {
      *side = value;
      side += num_bounds;
    }
  }
}

}  // namespace dgcn::pifpaf
