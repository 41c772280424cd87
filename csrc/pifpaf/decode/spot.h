// What one PIF cell adds to the confidence map of its keypoint.
#pragma once

namespace dgcn::pifpaf {

/// peak·(1 − d²/16σ²)⁸ at a pixel d ≤ σ away, and `peak` in full at the pixel that it falls on.
struct Spot {
  int left, right, top, bottom;  ///< to the pixels of [left, right) × [top, bottom)
  float x, y;                    ///< [px]
  float peak;                    ///< what it adds at (x, y)
  float sigma2;                  ///< σ² [px²]
  float falloff;                 ///< 1/16σ² [px⁻²]
  bool exceeds_box;  ///< whether pixels of the map are within σ and outside of the box, for want of precision

  float at(int row, int column) const;
};

}  // namespace dgcn::pifpaf
