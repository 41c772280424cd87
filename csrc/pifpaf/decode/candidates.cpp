#include "pifpaf/decode/candidates.h"

#include <cmath>
#include <limits>

#include "pifpaf/decode/bucket_grid.h"

namespace dgcn::pifpaf {
namespace {

constexpr std::size_t num_components = 7;  // of a PAF cell, without the unused one
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

int divide_up(int value, int divisor) { return (value + divisor - 1) / divisor; }

}  // namespace

/// The cells of a field with at least a threshold of confidence, side by side.
struct Candidates::Cells {
  std::vector<int> indices;       ///< in the field, ascending
  std::vector<float> components;  ///< [7, cells] in px; the confidence is 0 where one of them cannot be used
};

Candidates::Cells Candidates::gather(const float* field, std::size_t plane, float to_px, float threshold) {
  Cells cells{find_confident(field, plane, threshold), {}};
  const std::size_t size = cells.indices.size();
  cells.components.resize(num_components * size);
  float* const confidence = cells.components.data();
  for (std::size_t i = 0; i < size; ++i) {
    const float value = field[cells.indices[i]];
    confidence[i] = std::isfinite(value) ? value : 0.0F;
  }
  for (std::size_t c = 1; c < num_components; ++c) {  // one after the other: memory is asked for many cells at a time
    for (std::size_t i = 0; i < size; ++i) {
      const float value = field[c * plane + static_cast<std::size_t>(cells.indices[i])] * to_px;
      cells.components[c * size + i] = value;
      if (!pifpaf::usable(value)) confidence[i] = 0.0F;
    }
  }
  return cells;
}

std::array<Candidates, 2> Candidates::of_limb(const Fields& fields, int limb, int stride, PixelSize image,
                                              float threshold, ConfidenceMap& from, ConfidenceMap& to,
                                              const DecoderConfig& config) {
  const int plane = fields.height * fields.width;
  const float* const field = fields.paf + (static_cast<std::ptrdiff_t>(limb) * (num_components + 1) + 1) * plane;
  const float to_px = static_cast<float>(stride);
  std::array<Candidates, 2> directions{
      Candidates(field, fields.height, fields.width, false, image, to_px, threshold, to, config),
      Candidates(field, fields.height, fields.width, true, image, to_px, threshold, from, config)};
  const auto confident = std::count_if(field, field + plane, [&](float c) { return c >= threshold; });
  if (4 * confident <= plane || fields.height < tile_height || fields.width < tile_width) {
    const Cells cells = gather(field, static_cast<std::size_t>(plane), to_px, threshold);
    for (Candidates& direction : directions) direction.copy(cells);
  }
  return directions;
}

Candidates::Candidates(const float* field, int height, int width, bool backward, PixelSize image, float to_px,
                       float threshold, ConfidenceMap& map, const DecoderConfig& config)
    : field_(field),
      backward_(backward),
      image_(image),
      config_(&config),
      map_(&map),
      threshold_(threshold),
      to_px_(to_px),
      size_(height * width),
      height_(height),
      width_(width) {
  const auto component = [&](int c) { return field + static_cast<std::ptrdiff_t>(c) * size_; };
  confidence_ = component(0);
  x_ = component(backward ? 3 : 1);
  y_ = component(backward ? 4 : 2);
  target_x_ = component(backward ? 1 : 3);
  target_y_ = component(backward ? 2 : 4);
  scale_ = component(backward ? 6 : 5);
  target_scale_ = component(backward ? 5 : 6);
}

Candidates::Corner Candidates::corner_of(int tile) const {
  const int tiles_per_row = divide_up(width_, tile_width);
  const int row = tile / tiles_per_row * tile_height, column = tile % tiles_per_row * tile_width;
  const int top = std::min(row, height_ - tile_height), left = std::min(column, width_ - tile_width);
  const std::uint32_t own_in_row = 0xFFU << (column - left) & 0xFFU;
  return {top * width_ + left, own_in_row * 0x01010101U & ~std::uint32_t{0} << (row - top) * tile_width};
}

bool Candidates::usable(int i) const {
  if (copied_) return true;
  const Joint to = target(i);
  return confidence_[i] >= threshold_ && std::isfinite(confidence_[i]) && pifpaf::usable(x(i)) &&
         pifpaf::usable(y(i)) && pifpaf::usable(scale_[i] * to_px_) && pifpaf::usable(to.x) && pifpaf::usable(to.y) &&
         pifpaf::usable(to.scale);
}

void Candidates::score(const int* entries, std::size_t count, Batch& scores) {
  if (copied_) {
    for (std::size_t i = 0; i < count; ++i) scores[i] = confidence_[entries[i]];
    return;
  }
  num_scored_ += count;
  Batch confidence{}, x{}, y{};
  for (std::size_t i = 0; i < count; ++i) {
    const Joint to = target(entries[i]);
    confidence[i] = confidence_[entries[i]];
    x[i] = to.x;
    y[i] = to.y;
  }
  look_up_scores(confidence.data(), x.data(), y.data(), count, scores.data());
}

void Candidates::look_up_scores(const float* confidence, const float* x, const float* y, std::size_t count,
                                float* scores) const {
  const float map_weight = config_->connection_map_weight;
  map_->look_up(x, y, count, 0.0F, scores);
  for (std::size_t i = 0; i < count; ++i) {
    const float score = std::min(confidence[i], 1.0F) * (1.0F - map_weight + map_weight * scores[i]);
    scores[i] = score > threshold_ ? score : 0.0F;
  }
}

void Candidates::weigh(const int* entries, std::size_t count, float x, float y, float sigma, Batch& scores) const {
  Batch entry_x{}, entry_y{};
  for (std::size_t i = 0; i < count; ++i) {
    entry_x[i] = this->x(entries[i]);
    entry_y[i] = this->y(entries[i]);
  }
  kernels_->weigh(entry_x.data(), entry_y.data(), count, x, y, sigma, scores.data());
}

/// Has only copies as entries from now on. What starts in the same bucket comes together, and within it in the order of
/// the cells.
void Candidates::copy(const Cells& cells) {
  struct Found {
    int i, bucket;
    float score;
  };
  const Candidates all(cells.components.data(), 1, static_cast<int>(cells.indices.size()), backward_, image_, 1.0F,
                       threshold_, *map_, *config_);
  const auto num_cells = static_cast<std::size_t>(all.size_);
  std::vector<float> scores(num_cells);
  look_up_scores(all.confidence_, all.target_x_, all.target_y_, num_cells, scores.data());
  std::vector<Found> found(num_cells + 1);
  std::size_t num_found = 0;
  for (int i = 0; i < all.size_; ++i) {
    const float score = scores[static_cast<std::size_t>(i)];
    found[num_found] = {i, 0, score};
    num_found += score > 0.0F ? 1 : 0;
  }
  found.resize(num_found);

  const BucketGrid grid(image_);
  std::vector<int> next{0, 0};
  if (num_found > 2 * tile_size) {
    next.resize(grid.num_buckets() + 1);
    for (Found& f : found) f.bucket = static_cast<int>(grid.bucket(grid.row(all.y(f.i)), grid.column(all.x(f.i))));
  }
  for (const Found& f : found) ++next[static_cast<std::size_t>(f.bucket) + 1];
  for (std::size_t b = 1; b < next.size(); ++b) next[b] += next[b - 1];

  copied_ = true;
  windows_.clear();
  size_ = static_cast<int>(num_found);
  width_ = tile_width;
  height_ = divide_up(size_, tile_size) * tile_height;
  const auto pitch = static_cast<std::size_t>(height_ * width_);
  copies_.assign(6 * pitch, nan);
  cells_.resize(num_found);
  float* const out = copies_.data();
  for (const Found& f : found) {
    const auto i = static_cast<std::size_t>(next[static_cast<std::size_t>(f.bucket)]++);
    cells_[i] = cells.indices[static_cast<std::size_t>(f.i)];
    const float values[] = {
        f.score, all.x_[f.i], all.y_[f.i], all.target_x_[f.i], all.target_y_[f.i], all.target_scale_[f.i]};
    for (std::size_t k = 0; k < 6; ++k) out[k * pitch + i] = values[k];
  }
  confidence_ = out;
  x_ = out + pitch;
  y_ = out + 2 * pitch;
  target_x_ = out + 3 * pitch;
  target_y_ = out + 4 * pitch;
  target_scale_ = out + 5 * pitch;
  to_px_ = 1.0F;
}

void Candidates::get_ready() {
  // Scored one by one, entries are scored again whenever they are found. This many are better scored once.
  if (!copied_ && num_scored_ > static_cast<std::size_t>(size_))
    copy(gather(field_, static_cast<std::size_t>(size_), to_px_, threshold_));
  if (!windows_.empty()) return;
  const int num_tiles = divide_up(height_, tile_height) * divide_up(width_, tile_width);
  const auto num_windows = static_cast<std::size_t>(divide_up(num_tiles, tile_size) * tile_size);
  windows_.assign(4 * num_windows, nan);  // a missing window, which meets none
  for (int t = 0; t < num_tiles; ++t) {
    const Window window = kernels_->around(tile(corner_of(t).entry), threshold_);
    float* side = windows_.data() + t;
    for (const float value : {window.left, window.right, window.top, window.bottom}) {
      *side = value;
      side += num_windows;
    }
  }
}

}  // namespace dgcn::pifpaf
