// The candidate connections of one limb in one direction, and which of them start near a place.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "pifpaf/config.h"
#include "pifpaf/decode/confidence_map.h"
#include "pifpaf/decode/kernels.h"
#include "pifpaf/fields.h"
#include "pifpaf/person.h"

namespace dgcn::pifpaf {

/// One limb's PAF cells with at least a threshold of confidence, walked forward or backward.
///
/// Where they are few, they are scored at once, and those whose score exceeds the threshold are copied, close together
/// what starts close together. Where they are many, most will never matter: then every cell of the field is an entry, and
/// is scored when it is found, until that has happened so often that copies are worth it. Either way a search looks into
/// those tiles of 8 × 4 entries only that have starts near by. Keeps references to the field, the map and the
/// configuration.
class Candidates {
 public:
  /// Of a limb between the keypoints of the maps `from` and `to`, forward and backward. `image` is the size of the maps.
  static std::array<Candidates, 2> of_limb(const Fields& fields, int limb, int stride, PixelSize image, float threshold,
                                           ConfidenceMap& from, ConfidenceMap& to, const DecoderConfig& config);
  Candidates(Candidates&&) = default;

  int size() const { return size_; }  ///< entries, until the next search

  int cell(int i) const { return copied_ ? cells_[static_cast<std::size_t>(i)] : i; }  ///< row-major index in the field
  float x(int i) const { return x_[i] * to_px_; }                                      ///< where it starts [px]
  float y(int i) const { return y_[i] * to_px_; }
  Joint target(int i) const { return {0.0F, target_x_[i] * to_px_, target_y_[i] * to_px_, target_scale_[i] * to_px_}; }

  /// Whether entry i has the confidence, and all its components can be used.
  bool usable(int i) const;

  static constexpr std::size_t max_batch = 32;
  using Batch = std::array<float, max_batch>;

  /// The scores of at most max_batch entries: confidence·(1 − w + w·map at the target), with the map's share w; 0 where
  /// that does not exceed the threshold. Entries must be usable for their scores to count.
  void score(const int* entries, std::size_t count, Batch& scores);

  /// Multiplies scores by exp(−½ d²/σ²) for the distance d of an entry's start from (x, y) [px].
  void weigh(const int* entries, std::size_t count, float x, float y, float sigma, Batch& scores) const;

  /// Calls visit(entries, count) for all entries that start in the window and may score `floor` at least, at most
  /// max_batch together and in no particular order. A visit may narrow the window and raise the floor.
  template <typename Visit>
  void for_each_batch(const Window& window, const float& floor, Visit visit) {
    get_ready();
    std::array<int, max_batch> batch;
    std::size_t count = 0;
    const int num_windows = static_cast<int>(windows_.size() / 4);
    for (int first = 0; first < num_windows; first += tile_size) {
      const float* const left = windows_.data() + first;
      std::uint32_t tiles =
          kernels_->meeting({left, left + num_windows, left + 2 * num_windows, left + 3 * num_windows}, window);
      for (; tiles != 0; tiles &= tiles - 1) {
        const Corner corner = corner_of(first + __builtin_ctz(tiles));
        std::uint32_t found = kernels_->find(tile(corner.entry), window, threshold_, floor) & corner.own;
        for (; found != 0; found &= found - 1) {
          batch[count++] = corner.entry + place(__builtin_ctz(found));
          if (count < max_batch) continue;
          visit(batch.data(), count);
          count = 0;
        }
      }
    }
    if (count > 0) visit(batch.data(), count);
  }

 private:
  /// Where a tile begins. The last ones of a field begin early enough to be whole.
  struct Corner {
    int entry;
    std::uint32_t own;  ///< places that no tile before has
  };

  struct Cells;

  Candidates(const float* field, int height, int width, bool backward, PixelSize image, float to_px, float threshold,
             ConfidenceMap& map, const DecoderConfig& config);
  static Cells gather(const float* field, std::size_t plane, float to_px, float threshold);
  Corner corner_of(int tile) const;
  Tile tile(int entry) const {
    return {confidence_ + entry, x_ + entry, y_ + entry, static_cast<std::size_t>(width_), to_px_};
  }
  int place(int i) const { return i / tile_width * width_ + i % tile_width; }
  void look_up_scores(const float* confidence, const float* x, const float* y, std::size_t count, float* scores) const;
  void copy(const Cells& cells);
  void get_ready();

  const Kernels* kernels_ = &kernels();
  const float* field_;
  bool backward_;
  PixelSize image_;
  const DecoderConfig* config_;
  ConfidenceMap* map_;  ///< of the keypoint that the limb leads to
  float threshold_;
  float to_px_;

  // Entries, row after row. Copies have their score in place of the confidence, and rows as wide as a tile.
  bool copied_ = false;
  std::size_t num_scored_ = 0;  ///< entries that were no copies
  int size_, height_, width_;
  const float *confidence_, *x_, *y_, *scale_, *target_x_, *target_y_, *target_scale_;
  std::vector<int> cells_;      ///< of copies
  std::vector<float> copies_;   ///< six components
  std::vector<float> windows_;  ///< around the starts in each tile: left, right, top and bottom, tile_size at a time
};

}  // namespace dgcn::pifpaf
