#include "pifpaf/encoder.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "pifpaf/encode/claims.h"
#include "pifpaf/encode/paf.h"
#include "pifpaf/encode/pif.h"
#include "pifpaf/parallel.h"

namespace dgcn::pifpaf {
namespace {

constexpr std::size_t lot_floats = 1 << 17;  // half a megabyte, of an L2 cache of one or more

void require_on_grid(const char* name, int pixels, int stride) {
  if (pixels < 1 || (pixels - 1) % stride != 0)
    throw std::invalid_argument(std::string(name) + " must be a multiple of the stride " + std::to_string(stride) +
                                " plus 1, got " + std::to_string(pixels));
}

Grid grid_of(PixelSize picture, int stride) {
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

/// Calls fill(i) and then paint(i) for the fields i in [0, count) of so many floats, a few at a time: what was filled a
/// moment ago is still on its way to the cache, and all of them together would fall out of it.
template <typename Fill, typename Paint>
void fill_and_paint(int count, std::size_t floats, const Fill& fill, const Paint& paint) {
  const int lot = static_cast<int>(std::max<std::size_t>(lot_floats / floats, 1));
  for (int begin = 0; begin < count; begin += lot) {
    const int end = std::min(begin + lot, count);
    for (int i = begin; i < end; ++i) fill(i);
    for (int i = begin; i < end; ++i) paint(i);
  }
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
  const int num_keypoints = skeleton_.num_keypoints();
  const Grid grid = grid_of(picture, stride);
  const std::size_t plane = grid.size();
  const std::vector<PoseJoint> poses = read_poses(annotations.joints, annotations.num_persons, picture, proportions_);
  const auto background = [&](const Grid& of, float* confidence) {
    fill_background(annotations.ignored, annotations.num_ignored, of, confidence);
  };

  PifPainter pif(grid);
  const auto pif_target = [&](int k) -> PifTarget {
    const std::size_t at = static_cast<std::size_t>(k) * plane;
    return {targets.pif_confidence + at, targets.pif_offset + 2 * at, targets.pif_scale + at};
  };
  fill_and_paint(
      num_keypoints, 4 * plane,
      [&](int k) {
        background(grid, pif_target(k).confidence);
        fill_nan(pif_target(k).offset, 2 * plane);
        fill_nan(pif_target(k).scale, plane);
      },
      [&](int k) { pif.paint(poses, num_keypoints, k, pif_target(k)); });

  PafPainter paf(grid);
  const auto paf_target = [&](int m) -> PafTarget {
    const std::size_t at = static_cast<std::size_t>(m) * plane;
    return {targets.paf_confidence + at, targets.paf_offset + 4 * at};
  };
  fill_and_paint(
      skeleton_.num_limbs(), 5 * plane,
      [&](int m) {
        background(grid, paf_target(m).confidence);
        fill_nan(paf_target(m).offset, 4 * plane);
      },
      [&](int m) { paf.paint(poses, num_keypoints, skeleton_.limb(m), paf_target(m)); });

  for (const NodeTarget& node : nodes) {
    const Grid node_grid = grid_of(picture, node.stride);
    const auto confidence = [&](int k) { return node.confidence + static_cast<std::size_t>(k) * node_grid.size(); };
    fill_and_paint(
        num_keypoints, node_grid.size(), [&](int k) { background(node_grid, confidence(k)); },
        [&](int k) { paint_confidence(poses, num_keypoints, k, node_grid, confidence(k)); });
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
