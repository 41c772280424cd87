// Fields onto which persons are painted, and comparison of decoded persons.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "pifpaf/decoder.h"

/// Fields onto which persons can be painted: 4 x 4 PIF cells around each joint, PAF cells around both ends of a limb.
struct Scene {
  Scene(int num_keypoints, std::vector<std::pair<int, int>> limb_list, int field_height, int field_width)
      : limbs(std::move(limb_list)),
        height(field_height),
        width(field_width),
        plane(static_cast<std::size_t>(height * width)),
        pif(static_cast<std::size_t>(num_keypoints) * 5 * plane),
        paf(limbs.size() * 8 * plane),
        keypoints(num_keypoints) {}

  /// `joints` in cells; a negative x leaves a joint out.
  void paint(const std::vector<dgcn::pifpaf::Joint>& joints) {
    for (std::size_t k = 0; k < joints.size(); ++k) {
      const dgcn::pifpaf::Joint& j = joints[k];
      if (j.x < 0.0F) continue;
      for_cells_around(j, [&](std::size_t cell) {
        const float values[] = {0.0F, j.confidence, j.x, j.y, j.scale};
        for (std::size_t i = 0; i < 5; ++i) pif[(k * 5 + i) * plane + cell] = values[i];
      });
    }
    for (std::size_t l = 0; l < limbs.size(); ++l) {
      const dgcn::pifpaf::Joint &a = joints[static_cast<std::size_t>(limbs[l].first)],
                                &b = joints[static_cast<std::size_t>(limbs[l].second)];
      if (a.x < 0.0F || b.x < 0.0F) continue;
      const auto set = [&](std::size_t cell) {
        const float values[] = {0.0F, a.confidence, a.x, a.y, b.x, b.y, a.scale, b.scale};
        for (std::size_t i = 0; i < 8; ++i) paf[(l * 8 + i) * plane + cell] = values[i];
      };
      for_cells_around(a, set);
      for_cells_around(b, set);
    }
  }

  template <typename Set>
  void for_cells_around(const dgcn::pifpaf::Joint& joint, Set set) const {
    for (int y = static_cast<int>(joint.y) - 1; y <= static_cast<int>(joint.y) + 2; ++y) {
      for (int x = static_cast<int>(joint.x) - 1; x <= static_cast<int>(joint.x) + 2; ++x) {
        if (x >= 0 && y >= 0 && x < width && y < height) set(static_cast<std::size_t>(y * width + x));
      }
    }
  }

  dgcn::pifpaf::Fields fields() const {
    return {pif.data(), paf.data(), keypoints, static_cast<int>(limbs.size()), height, width};
  }
  dgcn::pifpaf::Skeleton skeleton() const { return dgcn::pifpaf::Skeleton(keypoints, limbs); }

  std::vector<std::pair<int, int>> limbs;
  int height, width;
  std::size_t plane;
  std::vector<float> pif, paf;
  int keypoints;
};

inline dgcn::pifpaf::Joint joint(float x, float y, float confidence = 0.9F) { return {confidence, x, y, 1.0F}; }

inline Scene two_persons() {
  Scene scene(3, {{0, 1}, {1, 2}}, 30, 40);
  scene.paint({joint(5, 5, 0.8F), joint(10, 6, 0.8F), joint(15, 7, 0.8F)});
  scene.paint({joint(20, 20), joint(26.5F, 20), joint(32, 21.25F)});
  return scene;
}

inline bool same_bits(const dgcn::pifpaf::Persons& a, const dgcn::pifpaf::Persons& b) {
  if (a.joints.size() != b.joints.size()) return false;
  for (std::size_t i = 0; i < a.joints.size(); ++i) {
    const dgcn::pifpaf::Joint &p = a.joints[i], &q = b.joints[i];
    if (p.confidence != q.confidence || p.x != q.x || p.y != q.y || p.scale != q.scale) return false;
  }
  return true;
}
