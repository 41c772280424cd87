// Reading the fields: argument checks, and the cells with enough confidence, converted to pixels.
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <memory>
#include <vector>

#include "pifpaf/config.h"
#include "pifpaf/fields.h"
#include "pifpaf/skeleton.h"

namespace dgcn::pifpaf {

/// Size of the pixel grid; 0 × 0 for fields without cells. Throws std::invalid_argument if the fields do not fit the
/// skeleton, the stride is not positive or the pixel grid exceeds `max_map_pixels`.
PixelSize check_fields(const Fields& fields, int stride, const Skeleton& skeleton, const DecoderConfig& config);

/// Whether a coordinate or scale [px] is finite and within ±10⁹, so that later stages can square and add it without
/// overflow. Cells with a component that is not are skipped.
inline bool is_valid_px(float value) { return std::fabs(value) <= 1e9F; }

/// int(value) clamped to [low, high] with 0 ≤ low ≤ high; `low` for NaN. Every conversion of a coordinate to an index
/// goes through here.
inline int clamp_to_int(float value, int low, int high) {
  if (!(value > static_cast<float>(low))) return low;
  return value < static_cast<float>(high) ? static_cast<int>(value) : high;
}

/// One cell of a PIF field.
struct PifCell {
  int cell;          ///< row-major index in the field
  float confidence;  ///< in [0, 1]
  float x, y;        ///< [px]
  float scale;       ///< [px]
};

/// Cells of a PAF field, an array per component. `to_px` converts the coordinates to pixels.
struct PafCells {
  static constexpr std::size_t kComponents = 5;

  const float *confidence, *x1, *y1, *x2, *y2;
  float to_px;
  std::unique_ptr<float[]> copies;  ///< what the pointers point to, unless that is the field itself
};

/// Reads fields or heads of any layout. The confidences of heads are compared as logits, and everything else is
/// converted for the cells alone that somebody asks for.
class FieldReader {
 public:
  /// Throws as check_fields(). Keeps references to the arrays and to the skeleton.
  FieldReader(const Fields& fields, int stride, const Skeleton& skeleton, const DecoderConfig& config);
  FieldReader(const FieldReader&) = delete;

  PixelSize size() const { return size_; }
  int stride() const { return stride_; }  ///< [px]
  int height() const { return height_; }  ///< [cells]
  int width() const { return width_; }
  std::size_t plane() const { return static_cast<std::size_t>(height_) * static_cast<std::size_t>(width_); }

  /// Replaces `cells` by the valid cells of one keypoint with at least the given confidence, in row-major order. A
  /// confidence above 1 counts as 1.
  void read_pif(int keypoint, float threshold, std::vector<PifCell>& cells) const;

  /// The indices of a limb's cells with at least the given confidence, ascending, and perhaps of some that miss it by a
  /// rounding error. If there are more than `limit`, only the first of them, but more than `limit`.
  std::vector<int> find_paf(int limb, float threshold, std::size_t limit) const;

  /// The given cells of a limb, copied, in px. The confidence of a cell with a confidence or a coordinate that is not
  /// valid is 0.
  PafCells copy_paf(int limb, const std::vector<int>& cells) const;

  /// All cells of a limb, in row-major order: in place where they lie there as float32 fields, else copied.
  PafCells paf(int limb) const;

  /// Whether both scales of a limb's cell are valid. Always so for heads.
  bool has_valid_scales(int limb, int cell) const;

  /// The scale [px] at the first or second end of a limb, as the PAF cell `cell`, whose end is at (x, y) [px], has it.
  /// For heads 0 where it is not valid.
  float paf_scale(int limb, bool second, int cell, float x, float y) const;

 private:
  /// The fields of all keypoints or of all limbs.
  struct Array {
    Array(const FieldArray& numbers, int num_components, int height, int width);

    float at(int field, int component, int row, int column) const;

    const void* data;
    Storage storage;
    Strides strides;
    bool is_planar;  ///< whether a component of a field is float32 [H, W], dense
  };

  /// Where the confidences [H, W] of each field lie: in the array, or copied to `copies`.
  std::vector<const float*> find_planes(const Array& array, int num_fields, std::unique_ptr<float[]>& copies) const;
  float to_stored(float confidence) const;
  float to_px(float coordinate, int origin) const;

  bool is_heads_;
  int height_, width_, stride_;
  PixelSize size_;
  const Skeleton* skeleton_;
  Array pif_, paf_;
  std::array<std::unique_ptr<float[]>, 2> copies_;
  std::vector<const float*> pif_confidences_, paf_confidences_;  ///< probabilities, or logits of heads
};

}  // namespace dgcn::pifpaf
