// The encoder's stages, in encode/: 1 poses, 2 background, 3 PIF, 4 PAF (docs/codec.md).
#include "pifpaf/encoder.h"

#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "common/parallel.h"
#include "pifpaf/encode/background.h"
#include "pifpaf/encode/paf.h"
#include "pifpaf/encode/pif.h"
#include "pifpaf/encode/poses.h"

namespace dgcn::pifpaf {
namespace {

void require_on_grid(const char* name, int pixels, int stride) {
  if (pixels < 1 || (pixels - 1) % stride != 0)
    throw std::invalid_argument(std::string(name) + " must be a multiple of the stride " + std::to_string(stride) +
                                " plus 1, got " + std::to_string(pixels));
}

FieldGrid grid_of(PixelSize picture, int stride) {
  if (stride < 1) throw std::invalid_argument("stride must be at least 1 pixel, got " + std::to_string(stride));
  require_on_grid("height", picture.height, stride);
  require_on_grid("width", picture.width, stride);
  return {(picture.height - 1) / stride + 1, (picture.width - 1) / stride + 1, stride};
}

void require_size(const char* name, std::size_t actual, int required) {
  if (actual != static_cast<std::size_t>(required))
    throw std::invalid_argument(std::string(name) + " must have " + std::to_string(required) +
                                " entries, one a keypoint, got " + std::to_string(actual));
}

void require_count(const char* name, int actual) {
  if (actual < 0)
    throw std::invalid_argument(std::string(name) + " must not be negative, got " + std::to_string(actual));
}

}  // namespace

Encoder::Encoder(Skeleton skeleton, Proportions proportions)
    : skeleton_(std::move(skeleton)), proportions_(std::move(proportions)) {
  require_size("sigmas", proportions_.sigmas.size(), skeleton_.num_keypoints());
  require_size("upright_pose", proportions_.upright_pose.size(), skeleton_.num_keypoints());
  for (const double sigma : proportions_.sigmas) {
    if (!(sigma > 0.0 && std::isfinite(sigma)))
      throw std::invalid_argument("sigmas must be positive and finite, got " + std::to_string(sigma));
  }
  for (const Point point : proportions_.upright_pose) {
    if (!(std::isfinite(point.x) && std::isfinite(point.y)))
      throw std::invalid_argument("upright_pose must be finite, got (" + std::to_string(point.x) + ", " +
                                  std::to_string(point.y) + ")");
  }
}

void Encoder::encode(const Annotations& annotations, PixelSize picture, int stride, const Targets& targets,
                     const std::vector<NodeTarget>& nodes) const {
  require_count("num_persons", annotations.num_persons);
  require_count("num_ignored", annotations.num_ignored);
  const std::vector<PoseJoint> poses = read_poses(annotations.joints, annotations.num_persons, picture, proportions_);
  const int num_keypoints = skeleton_.num_keypoints(), num_limbs = skeleton_.num_limbs();
  const auto fill_confidences = [&](int num_fields, const FieldGrid& grid, float* confidence) {
    for (int i = 0; i < num_fields; ++i) {
      fill_background(annotations.ignored, annotations.num_ignored, grid, confidence);
      confidence += grid.size();
    }
  };

  const FieldGrid grid = grid_of(picture, stride);
  const std::size_t plane = grid.size();
  const std::size_t pif = plane * static_cast<std::size_t>(num_keypoints);
  const std::size_t paf = plane * static_cast<std::size_t>(num_limbs);
  fill_confidences(num_keypoints, grid, targets.pif_confidence);
  fill_nan(targets.pif_offset, 2 * pif);
  fill_nan(targets.pif_scale, pif);
  fill_confidences(num_limbs, grid, targets.paf_confidence);
  fill_nan(targets.paf_offset, 4 * paf);

  PifPainter pif_painter(grid);
  for (int k = 0; k < num_keypoints; ++k) {
    const std::size_t at = static_cast<std::size_t>(k) * plane;
    pif_painter.paint(poses, num_keypoints, k,
                      {targets.pif_confidence + at, targets.pif_offset + 2 * at, targets.pif_scale + at});
  }
  PafPainter paf_painter(grid);
  for (int m = 0; m < num_limbs; ++m) {
    const std::size_t at = static_cast<std::size_t>(m) * plane;
    paf_painter.paint(poses, num_keypoints, skeleton_.limb(m),
                      {targets.paf_confidence + at, targets.paf_offset + 4 * at});
  }
  for (const NodeTarget& node : nodes) {
    const FieldGrid node_grid = grid_of(picture, node.stride);
    fill_confidences(num_keypoints, node_grid, node.confidence);
    for (int k = 0; k < num_keypoints; ++k)
      paint_confidence(poses, num_keypoints, k, node_grid,
                       node.confidence + static_cast<std::size_t>(k) * node_grid.size());
  }
}

void Encoder::encode_batch(const std::vector<Annotations>& pictures, PixelSize picture, int stride,
                           const Targets& targets, const std::vector<NodeTarget>& nodes, int threads) const {
  const std::size_t plane = grid_of(picture, stride).size();
  const std::size_t pif = plane * static_cast<std::size_t>(skeleton_.num_keypoints());
  const std::size_t paf = plane * static_cast<std::size_t>(skeleton_.num_limbs());
  for_each_in_threads(pictures.size(), threads, [&](std::size_t b) {
    std::vector<NodeTarget> own_nodes = nodes;
    for (NodeTarget& node : own_nodes)
      node.confidence += b * static_cast<std::size_t>(skeleton_.num_keypoints()) * grid_of(picture, node.stride).size();
    encode(pictures[b], picture, stride,
           {targets.pif_confidence + b * pif, targets.pif_offset + 2 * b * pif, targets.pif_scale + b * pif,
            targets.paf_confidence + b * paf, targets.paf_offset + 4 * b * paf},
           own_nodes);
  });
}

}  // namespace dgcn::pifpaf
