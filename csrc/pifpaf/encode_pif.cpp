#include "pifpaf/encode_pif.h"

#include <algorithm>
#include <cmath>

namespace dgcn::pifpaf {
namespace {

constexpr int patch_side = 4;  // [cells]

/// Calls visit(row, column) for each cell of the patch around a joint at `center` [cells] that the field has.
template <typename Visit>
void for_each_cell(Point center, const Grid& grid, Visit visit) {
  const double to_corner = (patch_side - 1) / 2.0;
  const int left = static_cast<int>(std::nearbyint(center.x - to_corner));
  const int top = static_cast<int>(std::nearbyint(center.y - to_corner));
  const int right = std::min(left + patch_side, grid.width), bottom = std::min(top + patch_side, grid.height);
  for (int row = std::max(top, 0); row < bottom; ++row) {
    for (int column = std::max(left, 0); column < right; ++column) visit(row, column);
  }
}

/// Calls visit(pose, center) for each painted joint of keypoint `k`, centred on `center` [cells].
template <typename Visit>
void for_each_joint(const std::vector<PoseJoint>& poses, int num_keypoints, int k, const Grid& grid, Visit visit) {
  for (std::size_t i = static_cast<std::size_t>(k); i < poses.size(); i += static_cast<std::size_t>(num_keypoints)) {
    const Point position = poses[i].position;
    if (poses[i].painted) visit(poses[i], Point{position.x / grid.stride, position.y / grid.stride});
  }
}

}  // namespace

void paint_pif(const std::vector<PoseJoint>& poses, int num_keypoints, int k, const Grid& grid, Claims& claims,
               const PifTarget& target) {
  for_each_joint(poses, num_keypoints, k, grid, [&](const PoseJoint& joint, Point center) {
    const float scale = static_cast<float>(joint.scale / grid.stride);
    for_each_cell(center, grid, [&](int row, int column) {
      const std::size_t cell = grid.index(row, column);
      const double x = center.x - column, y = center.y - row;
      if (!claims.claim(cell, x * x + y * y)) return;
      target.confidence[cell] = 1.0F;
      target.offset[cell] = static_cast<float>(x);
      target.offset[grid.size() + cell] = static_cast<float>(y);
      target.scale[cell] = scale;
    });
  });
  claims.clear();
}

void paint_confidence(const std::vector<PoseJoint>& poses, int num_keypoints, int k, const Grid& grid,
                      float* confidence) {
  for_each_joint(poses, num_keypoints, k, grid, [&](const PoseJoint&, Point center) {
    for_each_cell(center, grid, [&](int row, int column) { confidence[grid.index(row, column)] = 1.0F; });
  });
}

}  // namespace dgcn::pifpaf
