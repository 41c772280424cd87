#include "pifpaf/decode/candidates.h"

#include <cmath>
#include <limits>

#include "pifpaf/decode/buckets.h"

namespace dgcn::pifpaf {
namespace {

constexpr int kBucketEdge = 64;         // [px]

int divide_up(int value, int divisor) { return (value + divisor - 1) / divisor; }

/// Copies of the candidates whose score exceeds the threshold, sorted by the bucket of their start. The score is
/// stored as the confidence.
class CopiedCandidates final : public Candidates {
 public:
  CopiedCandidates(const FieldReader& fields, int limb, bool backward, const std::vector<int>& cells,
                   const PafCells& paf, float threshold, ConfidenceMap& target_map, const DecoderConfig& config)
      : Candidates(fields, limb, backward, threshold, 1.0F, target_map, config) {
    const Arrays planes = directed(paf, backward);
    std::vector<float> scores(cells.size());
    compute_scores(planes.confidence, planes.target_x, planes.target_y, cells.size(), scores.data());

    // Scores above 0: compute_scores() sets those that do not exceed the threshold to 0.
    const std::vector<int> kept = find_confident(scores.data(), scores.size(), std::numeric_limits<float>::denorm_min());

    const BucketGrid grid(fields.size(), kBucketEdge);
    BucketSort sort;
    sort.reset(grid.num_buckets());
    std::vector<std::size_t> buckets;
    buckets.reserve(kept.size());
    for (const int i : kept) {
      buckets.push_back(grid.bucket(grid.row(planes.y[i]), grid.column(planes.x[i])));
      sort.count(buckets.back());
    }
    sort.start_inserting();

    size_ = static_cast<int>(kept.size());
    width_ = kTileWidth;
    height_ = divide_up(size_, kTileSize) * kTileHeight;
    const auto pitch = static_cast<std::size_t>(height_ * width_);
    copies_.assign(5 * pitch, std::numeric_limits<float>::quiet_NaN());  // NaN: in no window
    float* const out = copies_.data();
    cells_.resize(kept.size());
    for (std::size_t j = 0; j < kept.size(); ++j) {
      const auto i = static_cast<std::size_t>(kept[j]);
      const std::size_t entry = sort.insert(buckets[j]);
      cells_[entry] = cells[i];
      const float values[] = {scores[i], planes.x[i], planes.y[i], planes.target_x[i], planes.target_y[i]};
      for (std::size_t component = 0; component < 5; ++component) out[component * pitch + entry] = values[component];
    }
    arrays_ = {out, out + pitch, out + 2 * pitch, out + 3 * pitch, out + 4 * pitch};
  }

  int cell(int entry) const override { return cells_[static_cast<std::size_t>(entry)]; }
  void score(const int* entries, std::size_t count, Scores& scores) override {
    for (std::size_t i = 0; i < count; ++i) scores[i] = arrays_.confidence[entries[i]];
  }

 private:
  bool is_usable(int) const override { return true; }

  std::vector<int> cells_;     ///< [size()]
  std::vector<float> copies_;  ///< [5, height_, width_]
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
  void score(const int* entries, std::size_t count, Scores& scores) override {
    Scores confidence{}, target_x{}, target_y{};
    for (std::size_t i = 0; i < count; ++i) {
      confidence[i] = arrays_.confidence[entries[i]];
      target_x[i] = arrays_.target_x[entries[i]] * to_px_;
      target_y[i] = arrays_.target_y[entries[i]] * to_px_;
    }
    compute_scores(confidence.data(), target_x.data(), target_y.data(), count, scores.data());
  }

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
  if (4 * static_cast<std::size_t>(fields.count_paf(limb, threshold)) <= fields.plane() ||
      fields.height() < kTileHeight || fields.width() < kTileWidth) {
    const std::vector<int> cells = fields.find_paf(limb, threshold);
    const PafCells paf = fields.copy_paf(limb, cells);
    return {std::make_unique<CopiedCandidates>(fields, limb, false, cells, paf, threshold, map2, config),
            std::make_unique<CopiedCandidates>(fields, limb, true, cells, paf, threshold, map1, config)};
  }
  const auto paf = std::make_shared<const PafCells>(fields.paf(limb));
  return {std::make_unique<FieldCandidates>(fields, limb, false, paf, threshold, map2, config),
          std::make_unique<FieldCandidates>(fields, limb, true, paf, threshold, map1, config)};
}

Candidates::Arrays Candidates::directed(const PafCells& paf, bool backward) {
  if (backward) return {paf.confidence, paf.x2, paf.y2, paf.x1, paf.y1};
  return {paf.confidence, paf.x1, paf.y1, paf.x2, paf.y2};
}

void Candidates::compute_scores(const float* confidence, const float* target_x, const float* target_y,
                                std::size_t count, float* scores) {
  target_map_.look_up(target_x, target_y, count, 0.0F, scores);
  for (std::size_t i = 0; i < count; ++i) {
    const float score = std::min(confidence[i], 1.0F) * (1.0F - map_weight_ + map_weight_ * scores[i]);
    scores[i] = score > threshold_ ? score : 0.0F;
  }
}

void Candidates::apply_gaussian(const int* entries, std::size_t count, float x, float y, float sigma,
                                Scores& scores) const {
  Scores entry_x{}, entry_y{};
  for (std::size_t i = 0; i < count; ++i) {
    entry_x[i] = this->x(entries[i]);
    entry_y[i] = this->y(entries[i]);
  }
  kernels_->apply_gaussian(entry_x.data(), entry_y.data(), count, x, y, sigma, scores.data());
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
