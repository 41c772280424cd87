// Fuzzes the decoder: bytes become a skeleton, a configuration, a field size and fields, and the decoded persons must
// be as documented. Exceptions other than std::invalid_argument for bad arguments end the run.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "fuzz_input.h"
#include "pifpaf/decoder.h"
#include "scene.h"

using namespace dgcn::pifpaf;

namespace {

/// The defaults with some options changed, to valid and invalid values.
DecoderConfig read_config(FuzzInput& input) {
  static const std::vector<float DecoderConfig::*> numbers = [] {
    std::vector<float DecoderConfig::*> found;
    visit_options([&](const char*, auto option, auto, auto) {
      if constexpr (std::is_same_v<decltype(option), float DecoderConfig::*>) found.push_back(option);
    });
    return found;
  }();
  static constexpr float kValues[] = {0.0F, 1e-12F, 1e-3F, 0.01F, 0.1F, 0.2F,  0.3F, 0.5F,
                                      0.9F, 1.0F,   1.5F,  2.0F,  4.0F, 30.0F, 1e3F, 1e6F};
  constexpr int kNumValues = sizeof kValues / sizeof *kValues;

  DecoderConfig config;
  const int flags = input.byte();
  config.force_complete = (flags & 1) != 0;
  config.reverse_match = (flags & 2) == 0;
  config.max_map_pixels = (flags & 4) != 0 ? 1000 : 50000;
  if ((flags & 8) != 0) {
    config.score_top = input.integer(-1, 6);
    config.max_seeds = input.integer(0, 20);
    config.max_persons = input.integer(0, 5);
  }
  for (int changes = flags >> 4; changes > 0; --changes) {
    float& option = config.*numbers[static_cast<std::size_t>(input.integer(0, static_cast<int>(numbers.size()) - 1))];
    const int value = input.integer(0, kNumValues);
    option = value < kNumValues ? kValues[value] : input.any_float();
  }
  return config;
}

/// Paints persons, some without all joints; then overwrites single values of the fields.
void read_persons(FuzzInput& input, Scene& scene) {
  for (int persons = input.integer(0, 4); persons > 0; --persons) {
    std::vector<Joint> joints;
    for (int k = 0; k < scene.keypoints; ++k) {
      const float x = input.component(16.0F, 1.0F), y = input.component(16.0F, 1.0F);
      const float confidence = input.component(200.0F, 0.0F), scale = input.component(32.0F, 0.0F);
      // Scene::paint needs positions inside; other values are written to single cells below.
      const bool inside = x >= 0.0F && y >= 0.0F && x < 16.0F && y < 16.0F;
      joints.push_back({confidence, inside ? x : -1.0F, y, scale});
    }
    scene.paint(joints);
  }
  while (!input.empty()) {
    std::vector<float>& field = input.flag() ? scene.paf : scene.pif;
    const int index = input.byte() << 8 | input.byte();
    const float value = input.any_float();
    if (!field.empty()) field[static_cast<std::size_t>(index) % field.size()] = value;
  }
}

/// Sets every component of every cell from a byte: confidences, positions near the cell, scales. Repeats the bytes.
void read_cells(FuzzInput input, Scene& scene) {
  const FuzzInput begin = input;
  const auto read = [&](float unit, float origin) {
    if (input.empty()) input = begin;
    return input.component(unit, origin);
  };
  const auto fill = [&](std::vector<float>& field, int components, int points) {
    for (std::size_t plane = 0; plane < field.size() / scene.plane; ++plane) {
      const int component = static_cast<int>(plane) % components - 2;  // 0, 1, ...: x, y, (x, y,) scale(s)
      for (int y = 0; y < scene.height; ++y) {
        for (int x = 0; x < scene.width; ++x) {
          float& value = field[plane * scene.plane + static_cast<std::size_t>(y * scene.width + x)];
          if (component < 0)
            value = read(200.0F, 0.0F);
          else if (component >= 2 * points)
            value = read(32.0F, 0.0F);
          else
            value = read(32.0F, 3.5F) + static_cast<float>(component % 2 == 0 ? x : y);
        }
      }
    }
  };
  if (input.empty() || scene.plane == 0) return;
  fill(scene.pif, 5, 1);
  fill(scene.paf, 8, 2);
}

/// Sets every component from four bytes. Repeats the bytes.
void read_raw(FuzzInput input, Scene& scene) {
  const FuzzInput begin = input;
  if (input.empty()) return;
  for (std::vector<float>* field : {&scene.pif, &scene.paf}) {
    for (float& value : *field) {
      if (input.empty()) input = begin;
      value = input.any_float();
    }
  }
}

void require_sound(const Inspection& inspection, const Decoder& decoder) {
  const std::size_t num_keypoints = static_cast<std::size_t>(decoder.skeleton().num_keypoints());
  const auto [height, width] = inspection.size;
  REQUIRE(inspection.confidence_maps.size() == num_keypoints * static_cast<std::size_t>(height * width));
  for (const float value : inspection.confidence_maps) REQUIRE(value >= 0.0F && value <= 1.0F);
  REQUIRE(inspection.seeds.size() <= static_cast<std::size_t>(decoder.config().max_seeds));
  float last = 1.0F;
  for (const Seed& seed : inspection.seeds) {
    REQUIRE(seed.joint.found() && seed.joint.confidence >= decoder.config().seed_threshold);
    REQUIRE(seed.joint.confidence <= last);
    last = seed.joint.confidence;
  }
  REQUIRE(inspection.connections.size() == 2 * static_cast<std::size_t>(decoder.skeleton().num_limbs()));
  for (const std::vector<Connection>& connections : inspection.connections) {
    for (const Connection& connection : connections) REQUIRE(connection.score > 0.0F && connection.score <= 1.0F);
  }
}

void require_sound(const Persons& persons, const Decoder& decoder) {
  const int num_keypoints = decoder.skeleton().num_keypoints();
  const DecoderConfig& config = decoder.config();
  REQUIRE(persons.num_keypoints == num_keypoints);
  REQUIRE(persons.size() <= static_cast<std::size_t>(config.max_persons));
  REQUIRE(persons.joints.size() == persons.size() * static_cast<std::size_t>(num_keypoints));
  float last_mean = 1.0F;
  for (std::size_t p = 0; p < persons.size(); ++p) {
    int found = 0;
    for (int k = 0; k < num_keypoints; ++k) {
      const Joint& joint = persons[p][k];
      if (!joint.found()) {
        REQUIRE(joint.confidence == 0.0F && joint.x == 0.0F && joint.y == 0.0F && joint.scale == 0.0F);
        continue;
      }
      ++found;
      REQUIRE(joint.confidence <= 1.0F && joint.confidence > config.keypoint_threshold);
      for (const float value : {joint.x, joint.y, joint.scale}) REQUIRE(std::fabs(value) <= 1.001e9F);
    }
    const float mean = mean_confidence(persons[p], num_keypoints);
    REQUIRE(mean >= config.instance_threshold && mean <= last_mean);
    REQUIRE(found > 0);
    last_mean = mean;
    const float score = person_score(persons[p], num_keypoints, config);
    REQUIRE(score >= 0.0F && score <= 1.001F);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzInput input(data, size);
  const int num_keypoints = input.integer(1, 5);
  Scene scene(num_keypoints, read_limbs(input, num_keypoints), input.integer(0, 10), input.integer(0, 10));
  const DecoderConfig wish = read_config(input);
  const int options = input.byte();
  static constexpr int kStrides[] = {0, 1,  2,  3,  4,  5,    6,  7,
                                     8, 10, 12, 16, 32, 1000, -8, std::numeric_limits<int>::max()};
  const int stride = kStrides[options % 16];
  if (options / 16 % 4 == 0)
    read_cells(input, scene);
  else if (options / 16 % 4 == 1)
    read_raw(input, scene);
  else
    read_persons(input, scene);

  DecoderConfig config = wish;
  try {
    config.validate();
  } catch (const std::invalid_argument&) {
    config = DecoderConfig{};
    config.max_map_pixels = 50000;
  }
  const Decoder decoder(scene.skeleton(), config);
  const Fields fields = scene.fields();
  try {
    const Persons persons = decoder.decode(fields, stride);
    require_sound(persons, decoder);
    if (options % 32 >= 16) require_sound(decoder.inspect(fields, stride), decoder);
    const Fields empty{nullptr, nullptr, fields.num_keypoints, fields.num_limbs, 0, 3};
    const std::vector<Persons> batch = decoder.decode_batch({fields, empty, fields}, stride, options / 64 == 3 ? 2 : 1);
    REQUIRE(same_bits(batch[0], persons) && batch[1].size() == 0 && same_bits(batch[2], persons));
    // The same memory as heads, also of 16 bits.
    const Storage storage = options % 4 == 0   ? Storage::kFloat16
                            : options % 4 == 1 ? Storage::kBFloat16
                                               : Storage::kFloat32;
    const Fields heads{{scene.pif.data(), storage},
                       {scene.paf.data(), storage},
                       fields.num_keypoints,
                       fields.num_limbs,
                       fields.height,
                       fields.width,
                       Form::kHeads};
    require_sound(decoder.decode(heads, stride), decoder);
  } catch (const std::invalid_argument&) {
    const double height = (scene.height - 1.0) * stride + 1, width = (scene.width - 1.0) * stride + 1;
    REQUIRE(stride < 1 || height * width > static_cast<double>(decoder.config().max_map_pixels));
  }
  return 0;
}
