#include "pifpaf/decode/candidates.h"

#include <cmath>
#include <limits>

#include "pifpaf/decode/buckets.h"

namespace dgcn::pifpaf {
namespace {

constexpr std::size_t kComponents = 7;  // of a PAF cell: confidence, x1, y1, x2, y2, scale1, scale2
constexpr int kBucketEdge = 64;         // [px]

int divide_up(int value, int divisor) { return (value + divisor - 1) / divisor; }

/// The component planes of a limb, `plane` values each. Backward exchanges the two ends.
struct DirectedPlanes {
  DirectedPlanes(const float* components, std::size_t plane, bool backward) : confidence(components) {
    const auto component = [&](std::size_t forward_index, std::size_t backward_index) {
      return components + plane * (backward ? backward_index : forward_index);
    };
    x = component(1, 3), y = component(2, 4), scale = component(5, 6);
    target_x = component(3, 1), target_y = component(4, 2), target_scale = component(6, 5);
  }

  const float *confidence, *x, *y, *scale, *target_x, *target_y, *target_scale;
};

/// Copies of the confident cells of a PAF field.
struct ConfidentCells {
  ConfidentCells(const float* field, std::size_t plane, float to_px, float threshold)
      : indices(find_confident(field, plane, threshold)), components(kComponents * indices.size()) {
    const std::size_t count = indices.size();
    float* const confidence = components.data();
    for (std::size_t i = 0; i < count; ++i) {
      const float value = field[indices[i]];
      confidence[i] = std::isfinite(value) ? value : 0.0F;
    }
    for (std::size_t c = 1; c < kComponents; ++c) {  // a plane at a time, so that cache misses overlap
      for (std::size_t i = 0; i < count; ++i) {
        const float value = field[c * plane + static_cast<std::size_t>(indices[i])] * to_px;
        components[c * count + i] = value;
        if (!is_valid_px(value)) confidence[i] = 0.0F;
      }
    }
  }

  std::vector<int> indices;       ///< in the field, ascending
  std::vector<float> components;  ///< [kComponents, cells], lengths in px; confidence 0 if a component is not valid
};

/// Copies of the candidates whose score exceeds the threshold, sorted by the bucket of their start. The score is
/// stored as the confidence.
class CopiedCandidates final : public Candidates {
 public:
  CopiedCandidates(const ConfidentCells& cells, bool backward, PixelSize image, float threshold,
                   ConfidenceMap& target_map, const DecoderConfig& config)
      : Candidates(threshold, 1.0F, target_map, config) {
    const std::size_t num_cells = cells.indices.size();
    const DirectedPlanes planes(cells.components.data(), num_cells, backward);
    std::vector<float> scores(num_cells);
    compute_scores(planes.confidence, planes.target_x, planes.target_y, num_cells, scores.data());

    // Scores above 0: compute_scores() sets those that do not exceed the threshold to 0.
    const std::vector<int> kept = find_confident(scores.data(), num_cells, std::numeric_limits<float>::denorm_min());

    const BucketGrid grid(image, kBucketEdge);
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
    copies_.assign(6 * pitch, std::numeric_limits<float>::quiet_NaN());  // NaN: in no window
    float* const out = copies_.data();
    cells_.resize(kept.size());
    for (std::size_t j = 0; j < kept.size(); ++j) {
      const auto i = static_cast<std::size_t>(kept[j]);
      const std::size_t entry = sort.insert(buckets[j]);
      cells_[entry] = cells.indices[i];
      const float values[] = {scores[i],          planes.x[i],        planes.y[i],
                              planes.target_x[i], planes.target_y[i], planes.target_scale[i]};
      for (std::size_t component = 0; component < 6; ++component) out[component * pitch + entry] = values[component];
    }
    arrays_ = {out, out + pitch, out + 2 * pitch, out + 3 * pitch, out + 4 * pitch, out + 5 * pitch};
  }

  int cell(int entry) const override { return cells_[static_cast<std::size_t>(entry)]; }
  bool is_candidate(int) const override { return true; }
  void score(const int* entries, std::size_t count, Scores& scores) override {
    for (std::size_t i = 0; i < count; ++i) scores[i] = arrays_.confidence[entries[i]];
  }

 private:
  std::vector<int> cells_;     ///< [size()]
  std::vector<float> copies_;  ///< [6, height_, width_]
};

/// All cells of a PAF field, read in place.
class FieldCandidates final : public Candidates {
 public:
  FieldCandidates(const CheckedFields& fields, const DirectedPlanes& planes, float threshold, ConfidenceMap& target_map,
                  const DecoderConfig& config)
      : Candidates(threshold, static_cast<float>(fields.stride), target_map, config), start_scale_(planes.scale) {
    arrays_ = {planes.confidence, planes.x, planes.y, planes.target_x, planes.target_y, planes.target_scale};
    size_ = fields.height * fields.width;
    height_ = fields.height;
    width_ = fields.width;
  }

  int cell(int entry) const override { return entry; }
  bool is_candidate(int entry) const override {
    const float confidence = arrays_.confidence[entry];
    const Joint to = target(entry);
    return confidence >= threshold_ && std::isfinite(confidence) && is_valid_px(x(entry)) && is_valid_px(y(entry)) &&
           is_valid_px(start_scale_[entry] * to_px_) && is_valid_px(to.x) && is_valid_px(to.y) && is_valid_px(to.scale);
  }
  void score(const int* entries, std::size_t count, Scores& scores) override {
    Scores confidence{}, target_x{}, target_y{};
    for (std::size_t i = 0; i < count; ++i) {
      const Joint to = target(entries[i]);
      confidence[i] = arrays_.confidence[entries[i]];
      target_x[i] = to.x;
      target_y[i] = to.y;
    }
    compute_scores(confidence.data(), target_x.data(), target_y.data(), count, scores.data());
  }

 private:
  const float* start_scale_;  ///< used only for the validity check
};

}  // namespace

std::array<std::unique_ptr<Candidates>, 2> make_candidates(const CheckedFields& fields, int limb, float threshold,
                                                           ConfidenceMap& map1, ConfidenceMap& map2,
                                                           const DecoderConfig& config) {
  const std::size_t plane = fields.plane();
  const float* const field = fields.paf + (static_cast<std::size_t>(limb) * (kComponents + 1) + 1) * plane;
  int num_confident = 0;  // an int, so that the compiler vectorises the loop
  for (std::size_t i = 0; i < plane; ++i) num_confident += field[i] >= threshold ? 1 : 0;
  if (4 * static_cast<std::size_t>(num_confident) <= plane || fields.height < kTileHeight ||
      fields.width < kTileWidth) {
    const ConfidentCells cells(field, plane, static_cast<float>(fields.stride), threshold);
    return {std::make_unique<CopiedCandidates>(cells, false, fields.size, threshold, map2, config),
            std::make_unique<CopiedCandidates>(cells, true, fields.size, threshold, map1, config)};
  }
  return {std::make_unique<FieldCandidates>(fields, DirectedPlanes(field, plane, false), threshold, map2, config),
          std::make_unique<FieldCandidates>(fields, DirectedPlanes(field, plane, true), threshold, map1, config)};
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
