// Decoder, stage 3: the candidate connections of a limb, and the search for those that start near a joint.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "pifpaf/config.h"
#include "pifpaf/decode/confidence_map.h"
#include "pifpaf/decode/field_reader.h"
#include "pifpaf/decode/kernels.h"
#include "pifpaf/person.h"

namespace dgcn::pifpaf {

/// The candidates of one limb walked in one direction: its PAF cells with at least a threshold of confidence. A
/// candidate starts at (x, y) and leads to a target.
///
/// They are stored as a grid of entries, an array per component, in tiles of kTileHeight × kTileWidth. A search tests
/// the bounding boxes of the tiles first, then the entries of the tiles that it overlaps.
class Candidates {
 public:
  static constexpr std::size_t kMaxBatch = 32;
  using Values = std::array<float, kMaxBatch>;

  virtual ~Candidates() = default;

  int size() const { return size_; }                              ///< number of entries, not all of them candidates
  virtual int cell(int entry) const = 0;                          ///< row-major index in the PAF field
  float x(int entry) const { return arrays_.x[entry] * to_px_; }  ///< start [px]
  float y(int entry) const { return arrays_.y[entry] * to_px_; }
  Joint target(int entry) const {
    const float x = arrays_.target_x[entry] * to_px_, y = arrays_.target_y[entry] * to_px_;
    return {0.0F, x, y, fields_.paf_scale(limb_, !is_backward_, cell(entry), x, y)};
  }

  /// Whether the entry is a candidate: with enough confidence, and all components finite and within ±10⁹ px.
  bool is_candidate(int entry) const { return is_usable(entry) && fields_.has_valid_scales(limb_, cell(entry)); }

  /// The score of a candidate: confidence·(1 − w + w·map at the target) with w = connection_map_weight, or 0 if that
  /// does not exceed the threshold. Undefined for an entry that is no candidate.
  virtual float score(int entry) = 0;

  /// At least the score of a candidate, and known without a look at the map.
  float max_score(int entry) const { return arrays_.confidence[entry]; }

  /// exp(−½ d²/σ²) of at most kMaxBatch entries, for the distance d of their start from (x, y) [px].
  void compute_weights(const int* entries, std::size_t count, float x, float y, float sigma, Values& weights) const;

  /// Calls visit(entries, count) for all candidates that start in the window and may score at least `min_score`, up to
  /// kMaxBatch at a time, in no particular order. Some entries may be no candidates: see is_candidate(). A visit may
  /// shrink the window and raise min_score.
  template <typename Visit>
  void for_each_batch(const PixelBox& window, const float& min_score, Visit visit) {
    if (bounds_.empty()) bound_tiles();
    std::array<int, kMaxBatch> batch;
    std::size_t count = 0;
    const int num_bounds = static_cast<int>(bounds_.size() / 4);
    for (int first = 0; first < num_bounds; first += kTileSize) {
      const float* const left = bounds_.data() + first;
      std::uint32_t tiles =
          kernels_->overlapping_tiles({left, left + num_bounds, left + 2 * num_bounds, left + 3 * num_bounds}, window);
      for (; tiles != 0; tiles &= tiles - 1) {
        const TilePosition tile = tile_position(first + __builtin_ctz(tiles));
        std::uint32_t inside = kernels_->starts_inside(tile_at(tile.entry), window, threshold_, min_score) & tile.own;
        for (; inside != 0; inside &= inside - 1) {
          const int i = __builtin_ctz(inside);
          batch[count++] = tile.entry + i / kTileWidth * width_ + i % kTileWidth;
          if (count < kMaxBatch) continue;
          visit(batch.data(), count);
          count = 0;
        }
      }
    }
    if (count > 0) visit(batch.data(), count);
  }

 protected:
  /// One value per entry; lengths are multiplied by a common factor to be in px.
  struct Arrays {
    const float *confidence, *x, *y, *target_x, *target_y;
  };

  Candidates(const FieldReader& fields, int limb, bool backward, float threshold, float to_px,
             ConfidenceMap& target_map, const DecoderConfig& config)
      : fields_(fields),
        limb_(limb),
        is_backward_(backward),
        threshold_(threshold),
        to_px_(to_px),
        target_map_(target_map),
        map_weight_(config.connection_map_weight) {}

  static Arrays directed(const PafCells& paf, bool backward);

  /// Whether the entry is a candidate as far as everything but its two scales tells.
  virtual bool is_usable(int entry) const = 0;

  /// The same as score(), from the confidence and the map.
  float compute_score(int entry);

  /// The score of a candidate with this confidence and map at its target.
  float score_at(float confidence, float map) const;

  const Kernels* kernels_ = &kernels();
  const FieldReader& fields_;
  int limb_;
  bool is_backward_;
  float threshold_;
  float to_px_;
  Arrays arrays_{};
  int size_ = 0, height_ = 0, width_ = 0;  ///< the grid of entries: empty, or at least a tile along each axis

 private:
  /// Where a tile begins. If the grid is no multiple of the tile along an axis, the last tiles overlap those before.
  struct TilePosition {
    int entry;          ///< first of the tile
    std::uint32_t own;  ///< mask of the entries that are in no earlier tile
  };

  TilePosition tile_position(int tile) const;
  CandidateTile tile_at(int entry) const {
    return {arrays_.confidence + entry, arrays_.x + entry, arrays_.y + entry, static_cast<std::size_t>(width_), to_px_};
  }
  void bound_tiles();

  ConfidenceMap& target_map_;
  float map_weight_;
  std::vector<float> bounds_;  ///< [4, tiles rounded up to kTileSize]: left, right, top, bottom of the starts in a tile
};

/// The candidates of a limb, forward (from joint 1 to joint 2) and backward. Keeps references to the fields, to the
/// maps of both keypoints and to `config`.
///
/// Few confident cells (up to a quarter of the field) are copied and sorted by the position of their start, so that
/// tiles are compact and searches short. If there are many, most never start near a joint, and the field is searched in
/// place. Without copies, a decode of 1 to 50 persons took 1.1 to 2.9 times as long; without in-place search,
/// force-complete of 5 to 50 persons took 1.7 to 6.3 times.
///
/// When persons are grown, the copies are scored at once: most of them start near a joint. When persons are completed,
/// the threshold is lower, and a copy is scored when a search first finds it. Scoring late takes a sixth longer to grow
/// 20 to 50 persons; scoring at once takes a tenth longer to complete the persons of a real network.
std::array<std::unique_ptr<Candidates>, 2> make_candidates(const FieldReader& fields, int limb, float threshold,
                                                           ConfidenceMap& map1, ConfidenceMap& map2,
                                                           const DecoderConfig& config);

}  // namespace dgcn::pifpaf
