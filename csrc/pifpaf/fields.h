// The decoder's input.
//
//   K, M      keypoints, limbs
//   H, W      field size [cells]
//   stride    edge of a cell [px]; cell i is centred on pixel stride·i
#pragma once

#include <cstddef>
#include <optional>

namespace dgcn::pifpaf {

/// How a number is stored.
enum class Storage { kFloat32, kFloat16, kBFloat16 };

/// Distances in memory between neighbours along the axes of an array [N, C, H, W], counted in numbers.
struct Strides {
  std::ptrdiff_t field, component, row, column;
};

/// Numbers [N, C, H, W] of N fields with C components each, in any memory layout; without strides row-major and dense.
struct FieldArray {
  FieldArray(const float* numbers, std::optional<Strides> layout = {}) : data(numbers), strides(layout) {}
  FieldArray(const void* numbers, Storage type, std::optional<Strides> layout = {})
      : data(numbers), storage(type), strides(layout) {}

  const void* data;
  Storage storage = Storage::kFloat32;
  std::optional<Strides> strides;
};

/// What the components of a field are.
enum class Form {
  /// PIF: (unused, confidence, x, y, scale). PAF: (unused, confidence, x1, y1, x2, y2, scale1, scale2). Confidences are
  /// in [0, 1]; coordinates are absolute; coordinates and scales are in cells.
  kFields,
  /// A network's heads as it leaves them. PIF: (c, x, y, unused, σ). PAF: (c, x1, y1, x2, y2, unused, unused). The
  /// confidence is 1/(1 + e⁻ᶜ); coordinates are relative to the cell, in cells; the scale of a joint is ln(1 + e^σ)
  /// cells, and those of a limb's ends are the scales of the PIF cells nearest to them, or 0 if these are NaN, infinite
  /// or beyond 10⁹ px.
  kHeads,
};

/// The fields of one image.
struct Fields {
  FieldArray pif;  ///< [K, 5, H, W]
  FieldArray paf;  ///< [M, 8, H, W]; of heads [M, 7, H, W]
  int num_keypoints;
  int num_limbs;
  int height;
  int width;
  Form form = Form::kFields;
};

/// Size of an image, or of the pixel grid that fields describe: (n − 1)·stride + 1 along each axis.
struct PixelSize {
  int height;
  int width;
};

}  // namespace dgcn::pifpaf
