// The encoder of the Python module _pifpaf, with numpy arrays in and out. dgcn_ext/encoder.py has checked types and
// shapes; std::invalid_argument from the C++ library becomes ValueError.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <array>
#include <functional>
#include <initializer_list>
#include <new>
#include <numeric>
#include <optional>
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
using Shape = std::vector<py::ssize_t>;

constexpr double kMaxFloats = 1e15;  // in an array: more than any memory holds, and no overflow of ssize_t

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

/// Shapes of the five arrays of Targets, then of those of the nodes; `batch` is the leading dimensions, none or B.
std::vector<Shape> shapes(const Encoder& encoder, const Shape& batch, int height, int width, int stride,
                          const std::vector<int>& node_strides) {
  const auto shape = [&](std::initializer_list<py::ssize_t> channels, int cell) {
    Shape all = batch;
    all.insert(all.end(), channels);
    all.insert(all.end(), {(height - 1) / cell + 1, (width - 1) / cell + 1});
    return all;
  };
  const py::ssize_t k = encoder.num_keypoints(), m = encoder.num_limbs();
  std::vector<Shape> all{shape({k}, stride), shape({k, 2}, stride), shape({k}, stride), shape({m}, stride),
                         shape({m, 4}, stride)};
  for (const int node : node_strides) all.push_back(shape({k}, node));
  return all;
}

/// Arrays in one block of memory, which malloc can reuse for the next picture: page faults take longer than encoding.
std::vector<Output> allocate(const std::vector<Shape>& shapes) {
  const auto size = [](const Shape& shape) {
    const double product = std::accumulate(shape.begin(), shape.end(), 1.0, std::multiplies<>());
    if (product > kMaxFloats) throw std::bad_alloc();
    return static_cast<py::ssize_t>(product);
  };
  py::ssize_t total = 0;
  for (const Shape& shape : shapes) total += size(shape);
  Output block(total);
  float* begin = block.mutable_data();
  std::vector<Output> arrays;
  arrays.reserve(shapes.size());
  for (const Shape& shape : shapes) {
    arrays.emplace_back(shape, begin, block);
    begin += arrays.back().size();
  }
  return arrays;
}

/// Writes the targets of the pictures to the arrays `out`, which have the shapes of shapes(), or to new ones. Returns
/// these arrays.
std::vector<Output> encode(const Encoder& encoder, const std::vector<std::pair<Numbers, Numbers>>& pictures,
                           const Shape& batch, int height, int width, int stride, const std::vector<int>& node_strides,
                           int threads, std::optional<std::vector<Output>> out) {
  std::vector<Annotations> annotations;
  annotations.reserve(pictures.size());
  for (const auto& [keypoints, ignored] : pictures)
    annotations.push_back(view(keypoints, ignored, encoder.num_keypoints()));
  std::vector<Output> arrays =
      out ? *std::move(out) : allocate(shapes(encoder, batch, height, width, stride, node_strides));
  const Targets targets{arrays[0].mutable_data(), arrays[1].mutable_data(), arrays[2].mutable_data(),
                        arrays[3].mutable_data(), arrays[4].mutable_data()};
  std::vector<NodeTarget> nodes;
  nodes.reserve(node_strides.size());
  for (std::size_t i = 0; i < node_strides.size(); ++i)
    nodes.push_back({node_strides[i], arrays[5 + i].mutable_data()});
  without_gil([&] { encoder.encode_batch(annotations, {height, width}, stride, targets, nodes, threads); });
  return arrays;
}

}  // namespace

void bind_encoder(py::module_& module) {
  py::class_<Encoder>(module, "Encoder").def(py::init(&make_encoder)).def("shapes", &shapes).def("encode", &encode);
}

}  // namespace dgcn::pifpaf
