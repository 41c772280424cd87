// The decoder's input.
//
//   K, M      keypoints, limbs
//   H, W      field size [cells]
//   stride    edge of a cell [px]; cell i is centred on pixel stride·i
#pragma once

namespace dgcn::pifpaf {

/// The fields of one image, row-major and dense. Coordinates are absolute; coordinates and scales are in cells.
struct Fields {
  const float* pif;  ///< [K, 5, H, W]: (unused, confidence, x, y, scale)
  const float* paf;  ///< [M, 8, H, W]: (unused, confidence, x1, y1, x2, y2, scale1, scale2)
  int num_keypoints;
  int num_limbs;
  int height;
  int width;
};

/// Size of an image, or of the pixel grid that fields describe: (n − 1)·stride + 1 along each axis.
struct PixelSize {
  int height;
  int width;
};

}  // namespace dgcn::pifpaf
