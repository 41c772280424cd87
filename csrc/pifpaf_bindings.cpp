// The Python module _pifpaf and its decoder, with numpy arrays in and out. dgcn_ext/decoder.py has checked types and
// shapes; std::invalid_argument from the C++ library becomes ValueError.
#include "pifpaf_bindings.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "pifpaf/decoder.h"

namespace py = pybind11;

namespace dgcn::pifpaf {
namespace {

using Array = py::array_t<float, py::array::c_style>;

static_assert(sizeof(Joint) == 4 * sizeof(float), "a joint is a row of the output");

/// View of an array [N, C, H, W] of aligned native float32, float16, or uint16 with the bits of bfloat16.
FieldArray view(const py::array& array) {
  const auto stride = [&](int axis) { return static_cast<std::ptrdiff_t>(array.strides(axis) / array.itemsize()); };
  const Storage storage = array.itemsize() == 4         ? Storage::kFloat32
                          : array.dtype().kind() == 'f' ? Storage::kFloat16
                                                        : Storage::kBFloat16;
  return {array.data(), storage, Strides{stride(0), stride(1), stride(2), stride(3)}};
}

/// View of the arrays pif [K, 5, H, W] and paf, which must outlive it: fields if that is [M, 8, H, W], heads if it is
/// [M, 7, H, W].
Fields view(const py::array& pif, const py::array& paf) {
  const bool fits = pif.ndim() == 4 && paf.ndim() == 4 && pif.shape(1) == 5 &&
                    (paf.shape(1) == 7 || paf.shape(1) == 8) && pif.shape(2) == paf.shape(2) &&
                    pif.shape(3) == paf.shape(3);
  if (!fits) throw std::invalid_argument("pif and paf must be [K, 5, H, W] and [M, 7 or 8, H, W]");
  const auto extent = [](const py::array& array, int axis) { return py::int_(array.shape(axis)).cast<int>(); };
  return {view(pif),
          view(paf),
          extent(pif, 0),
          extent(paf, 0),
          extent(pif, 2),
          extent(pif, 3),
          paf.shape(1) == 7 ? Form::kHeads : Form::kFields};
}

/// The joints as float32 [P, K, 4] (confidence, x, y, scale), without a copy: the array owns their memory.
Array to_array(Persons&& persons) {
  auto* joints = new std::vector<Joint>(std::move(persons.joints));
  const py::capsule owner(joints, [](void* pointer) { delete static_cast<std::vector<Joint>*>(pointer); });
  const auto num_keypoints = static_cast<py::ssize_t>(persons.num_keypoints);
  const py::ssize_t num_persons = static_cast<py::ssize_t>(joints->size()) / num_keypoints;
  return Array({num_persons, num_keypoints, py::ssize_t{4}}, reinterpret_cast<const float*>(joints->data()), owner);
}

Array decode(const Decoder& decoder, const py::array& pif, const py::array& paf, int stride) {
  const Fields fields = view(pif, paf);
  return to_array(without_gil([&] { return decoder.decode(fields, stride); }));
}

/// Seconds spent in each stage, in the order of the stages.
py::dict stage_times(const Decoder& decoder, const py::array& pif, const py::array& paf, int stride) {
  const Fields fields = view(pif, paf);
  StageTimes times;
  without_gil([&] { decoder.decode(fields, stride, &times); });
  using namespace py::literals;
  return py::dict("reading"_a = times.reading, "maps"_a = times.maps, "seeds"_a = times.seeds,
                  "growing"_a = times.growing, "completing"_a = times.completing, "suppressing"_a = times.suppressing,
                  "refining"_a = times.refining);
}

/// Rows of the structured arrays that `inspect` returns.
struct SeedRow {
  std::int32_t keypoint, cell;
  float confidence, x, y, scale;
};
struct ConnectionRow {
  std::int32_t limb, start, end, cell;
  float score, x1, y1, x2, y2, scale2;
};

template <typename Row>
py::array_t<Row> to_rows(const std::vector<Row>& rows) {
  return py::array_t<Row>(static_cast<py::ssize_t>(rows.size()), rows.data());
}

/// (confidence maps [K, height, width], seeds, connections)
py::tuple inspect(const Decoder& decoder, const py::array& pif, const py::array& paf, int stride) {
  const Fields fields = view(pif, paf);
  const Inspection inspection = without_gil([&] { return decoder.inspect(fields, stride); });
  Array maps({fields.num_keypoints, inspection.size.height, inspection.size.width}, inspection.confidence_maps.data());

  std::vector<SeedRow> seeds;
  for (const auto& [keypoint, cell, joint] : inspection.seeds)
    seeds.push_back({keypoint, cell, joint.confidence, joint.x, joint.y, joint.scale});

  std::vector<ConnectionRow> connections;
  for (int i = 0; i < 2 * fields.num_limbs; ++i) {
    auto [start, end] = decoder.skeleton().limb(i / 2);
    if (i % 2 == 1) std::swap(start, end);
    for (const Connection& c : inspection.connections[static_cast<std::size_t>(i)])
      connections.push_back({i / 2, start, end, c.cell, c.score, c.x, c.y, c.target.x, c.target.y, c.target.scale});
  }
  return py::make_tuple(maps, to_rows(seeds), to_rows(connections));
}

std::vector<Array> decode_batch(const Decoder& decoder, const std::vector<std::pair<py::array, py::array>>& images,
                                int stride, int threads) {
  std::vector<Fields> fields;
  fields.reserve(images.size());
  for (const auto& [pif, paf] : images) fields.push_back(view(pif, paf));
  std::vector<Persons> results = without_gil([&] { return decoder.decode_batch(fields, stride, threads); });
  std::vector<Array> arrays;
  arrays.reserve(results.size());
  for (Persons& persons : results) arrays.push_back(to_array(std::move(persons)));
  return arrays;
}

/// float32 [P] for persons [P, K, 4].
Array person_scores(const Decoder& decoder, const Array& persons) {
  const int num_keypoints = decoder.skeleton().num_keypoints();
  if (persons.ndim() != 3 || persons.shape(1) != num_keypoints || persons.shape(2) != 4)
    throw std::invalid_argument("persons must be [P, K, 4]");
  Array scores(persons.shape(0));
  const auto* joints = reinterpret_cast<const Joint*>(persons.data());
  for (py::ssize_t p = 0; p < persons.shape(0); ++p)
    scores.mutable_at(p) = person_score(joints + p * num_keypoints, num_keypoints, decoder.config());
  return scores;
}

}  // namespace
}  // namespace dgcn::pifpaf

PYBIND11_MODULE(_pifpaf, module) {
  using namespace dgcn::pifpaf;
  PYBIND11_NUMPY_DTYPE(SeedRow, keypoint, cell, confidence, x, y, scale);
  PYBIND11_NUMPY_DTYPE(ConnectionRow, limb, start, end, cell, score, x1, y1, x2, y2, scale2);
  module.attr("MAX_KEYPOINTS") = Skeleton::kMaxKeypoints;

  py::class_<DecoderConfig> config(module, "DecoderConfig");
  config.def(py::init<>()).def("validate", &DecoderConfig::validate);
  visit_options([&](const char* name, auto option, auto, auto) { config.def_readwrite(name, option); });

  py::class_<Decoder>(module, "Decoder")
      .def(py::init([](int num_keypoints, const std::vector<std::pair<int, int>>& limbs, const DecoderConfig& config) {
        return Decoder(Skeleton(num_keypoints, limbs), config);
      }))
      .def("decode", &decode)
      .def("inspect", &inspect)
      .def("stage_times", &stage_times)
      .def("decode_batch", &decode_batch)
      .def("person_scores", &person_scores);

  bind_encoder(module);
}
