// The encoder behind pybind11 and numpy. dgcn_ext/encoder.py checks types and shapes, makes the arrays that are written
// and gives the errors a user sees; std::invalid_argument from the core arrives in Python as ValueError.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <array>
#include <stdexcept>
#include <utility>
#include <vector>

#include "pifpaf/encoder.h"
#include "pifpaf_bindings.h"

namespace py = pybind11;

namespace dgcn::pifpaf {
namespace {

using Numbers = py::array_t<double, py::array::c_style>;
using Output = py::array_t<float, py::array::c_style>;

static_assert(sizeof(AnnotatedJoint) == 3 * sizeof(double), "a joint is a row of the keypoints");
static_assert(sizeof(Box) == 4 * sizeof(double), "a box is a row of the ignored ones");

/// View of the arrays keypoints [P, K, 3] and ignored [R, 4], which must outlive it.
Annotations view(const Numbers& keypoints, const Numbers& ignored, int num_keypoints) {
  if (keypoints.ndim() != 3 || keypoints.shape(1) != num_keypoints || keypoints.shape(2) != 3 || ignored.ndim() != 2 ||
      ignored.shape(1) != 4)
    throw std::invalid_argument("keypoints and ignored must be [P, K, 3] and [R, 4]");
  return {reinterpret_cast<const AnnotatedJoint*>(keypoints.data()), py::int_(keypoints.shape(0)).cast<int>(),
          reinterpret_cast<const Box*>(ignored.data()), py::int_(ignored.shape(0)).cast<int>()};
}

Encoder make_encoder(int num_keypoints, const std::vector<std::pair<int, int>>& limbs, std::vector<double> sigmas,
                     const std::vector<std::array<double, 2>>& upright_pose) {
  std::vector<Point> points;
  points.reserve(upright_pose.size());
  for (const auto& [x, y] : upright_pose) points.push_back({x, y});
  return Encoder(Skeleton(num_keypoints, limbs), {std::move(sigmas), std::move(points)});
}

/// Writes the five arrays of `targets` and those of `nodes`, which encoder.py has made for so many pictures.
void encode(const Encoder& encoder, const std::vector<std::pair<Numbers, Numbers>>& pictures, int height, int width,
            int stride, std::array<Output, 5> targets, std::vector<std::pair<int, Output>> nodes, int threads) {
  std::vector<Annotations> annotations;
  annotations.reserve(pictures.size());
  for (const auto& [keypoints, ignored] : pictures)
    annotations.push_back(view(keypoints, ignored, encoder.num_keypoints()));
  auto& [pif_confidence, pif_offset, pif_scale, paf_confidence, paf_offset] = targets;
  const Targets written{pif_confidence.mutable_data(), pif_offset.mutable_data(), pif_scale.mutable_data(),
                        paf_confidence.mutable_data(), paf_offset.mutable_data()};
  std::vector<NodeTarget> written_nodes;
  written_nodes.reserve(nodes.size());
  for (auto& [node_stride, confidence] : nodes) written_nodes.push_back({node_stride, confidence.mutable_data()});

  const py::gil_scoped_release release;
  encoder.encode_batch(annotations, {height, width}, stride, written, written_nodes, threads);
}

}  // namespace

void bind_encoder(py::module_& module) {
  py::class_<Encoder>(module, "Encoder").def(py::init(&make_encoder)).def("encode", &encode);
}

}  // namespace dgcn::pifpaf
