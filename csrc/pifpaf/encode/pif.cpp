#include "pifpaf/encode/pif.h"

#include <algorithm>

namespace dgcn::pifpaf {
namespace {

constexpr int kPatchSide = 4;  // [cells]

/// Calls visit(row, begin, end) for each row of the patch around a joint at `center` [cells]: its columns [begin, end)
/// inside the field.
template <typename Visit>
void for_each_row(Point center, const FieldGrid& grid, const Visit& visit) {
  const double to_corner = (kPatchSide - 1) / 2.0;
  const int left = round_to_int(center.x - to_corner);
  const int top = round_to_int(center.y - to_corner);
  const int begin = std::max(left, 0), end = std::min(left + kPatchSide, grid.width);
  const int bottom = std::min(top + kPatchSide, grid.height);
  for (int row = std::max(top, 0); row < bottom; ++row) visit(row, begin, end);
}

/// Calls visit(pose, center) for each painted joint of keypoint `k`, centred on `center` [cells].
template <typename Visit>
void for_each_joint(const std::vector<PoseJoint>& poses, int num_keypoints, int k, const FieldGrid& grid,
                    const Visit& visit) {
  for (std::size_t i = static_cast<std::size_t>(k); i < poses.size(); i += static_cast<std::size_t>(num_keypoints)) {
    const Point position = poses[i].position;
    if (poses[i].painted) visit(poses[i], Point{position.x / grid.stride, position.y / grid.stride});
  }
}

}  // namespace

void PifPainter::paint(const std::vector<PoseJoint>& poses, int num_keypoints, int k, const PifTarget& target) {
  const std::size_t plane = grid_.size();
  nearest_.start_field(target.confidence);
  for_each_joint(poses, num_keypoints, k, grid_, [&](const PoseJoint& joint, Point center) {
    nearest_.add({center});
    const float scale = static_cast<float>(joint.scale / grid_.stride);
    for_each_row(center, grid_, [&](int row, int begin, int end) {
      const float y = static_cast<float>(center.y - row);
      nearest_.cover(row, begin, end, [&](int column, std::size_t cell) {
        target.offset[cell] = static_cast<float>(center.x - column);
        target.offset[plane + cell] = y;
        target.scale[cell] = scale;
      });
    });
  });
}

void paint_confidence(const std::vector<PoseJoint>& poses, int num_keypoints, int k, const FieldGrid& grid,
                      float* confidence) {
  for_each_joint(poses, num_keypoints, k, grid, [&](const PoseJoint&, Point center) {
    for_each_row(center, grid, [&](int row, int begin, int end) {
      std::fill(confidence + grid.index(row, begin), confidence + grid.index(row, end), 1.0F);
    });
  });
}

}  // namespace dgcn::pifpaf
