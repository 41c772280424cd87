// The decoder's stages, in decode/ (those of dgcn_ext/reference/decoding.py, the specification in numpy):
//
//   1  confidence maps   confidence_map            PIF cells added up at input resolution
//   2  seeds             seeds                     PIF cells of high confidence in which the map is high, too
//   3  connections       candidates, connections   PAF cells, scored with the map at their target
//   4  growing           grow, occupancy           a person from each seed in a place that no person occupies
//   5  completing        grow                      with force_complete: weaker connections, then copies of neighbours
//   6  suppression       suppress, occupancy       joints where a better person has one, then weak persons
//   7  refinement        refine                    joints move to where PIF cells point; off by default
#include "pifpaf/decoder.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

#include "common/parallel.h"
#include "pifpaf/decode/confidence_map.h"
#include "pifpaf/decode/connections.h"
#include "pifpaf/decode/field_reader.h"
#include "pifpaf/decode/grow.h"
#include "pifpaf/decode/occupancy.h"
#include "pifpaf/decode/refine.h"
#include "pifpaf/decode/seeds.h"
#include "pifpaf/decode/suppress.h"

namespace dgcn::pifpaf {
namespace {

/// The configuration, validated, with the thresholds at zero that force_complete sets to zero.
DecoderConfig effective_config(DecoderConfig config) {
  config.validate();
  if (config.force_complete) {
    config.keypoint_threshold = 0.0F;
    config.keypoint_threshold_relative = 0.0F;
    config.instance_threshold = 0.0F;
  }
  return config;
}

/// Adds the time since the previous lap to a stage; does nothing without `times`.
class Stopwatch {
 public:
  explicit Stopwatch(StageTimes* times) : times_(times) {
    if (times_ != nullptr) last_ = Clock::now();
  }

  void lap(double StageTimes::* stage) {
    if (times_ == nullptr) return;
    const Clock::time_point now = Clock::now();
    times_->*stage += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  using Clock = std::chrono::steady_clock;

  StageTimes* times_;
  Clock::time_point last_;
};

/// The confidence map of each keypoint [K], and the seeds of all, best first.
struct MapsAndSeeds {
  MapsAndSeeds(const FieldReader& fields, int num_keypoints, const DecoderConfig& config, Stopwatch& stopwatch) {
    const float threshold = std::min(config.map_threshold, config.seed_threshold);
    std::vector<PifCell> cells;
    maps.reserve(static_cast<std::size_t>(num_keypoints));
    for (int k = 0; k < num_keypoints; ++k) {
      fields.read_pif(k, threshold, cells);
      maps.emplace_back(cells, fields.size(), config);
      stopwatch.lap(&StageTimes::maps);
      append_seeds(k, cells, maps.back(), config, seeds);
      stopwatch.lap(&StageTimes::seeds);
    }
    sort_seeds(config, seeds);
    stopwatch.lap(&StageTimes::seeds);
  }

  std::vector<ConfidenceMap> maps;
  std::vector<Seed> seeds;
};

/// The connections of all limbs [M] with a score above `threshold`.
std::vector<LimbConnections> connect_keypoints(const FieldReader& fields, const Skeleton& skeleton, float threshold,
                                               std::vector<ConfidenceMap>& maps, const DecoderConfig& config) {
  std::vector<LimbConnections> connections;
  connections.reserve(static_cast<std::size_t>(skeleton.num_limbs()));
  for (int limb = 0; limb < skeleton.num_limbs(); ++limb) {
    const auto [joint1, joint2] = skeleton.limb(limb);
    connections.emplace_back(fields, limb, threshold, maps[static_cast<std::size_t>(joint1)],
                             maps[static_cast<std::size_t>(joint2)], config);
  }
  return connections;
}

}  // namespace

Decoder::Decoder(Skeleton skeleton, const DecoderConfig& config)
    : skeleton_(std::move(skeleton)), config_(effective_config(config)) {}

Persons Decoder::decode(const Fields& fields, int stride, StageTimes* times) const {
  Stopwatch stopwatch(times);
  Persons persons{skeleton_.num_keypoints(), {}};
  const FieldReader reader(fields, stride, skeleton_, config_);
  if (reader.size().height == 0) return persons;
  stopwatch.lap(&StageTimes::reading);
  MapsAndSeeds image(reader, persons.num_keypoints, config_, stopwatch);
  Occupancy occupancy(persons.num_keypoints, reader.size(), config_);
  Grower grower(skeleton_, config_);
  auto connections = connect_keypoints(reader, skeleton_, config_.connection_threshold, image.maps, config_);
  for (const Seed& seed : image.seeds) {
    if (persons.size() == static_cast<std::size_t>(config_.max_persons)) break;
    if (occupancy.occupied(seed.keypoint, seed.joint)) continue;
    Joint* person = persons.append();
    person[seed.keypoint] = seed.joint;
    grower.grow(connections, {config_.connection_window, config_.reverse_match}, person);
    for (int k = 0; k < persons.num_keypoints; ++k) {
      if (person[k].found()) occupancy.mark(k, person[k]);
    }
  }
  stopwatch.lap(&StageTimes::growing);
  if (config_.force_complete) {
    connections = connect_keypoints(reader, skeleton_, config_.complete_threshold, image.maps, config_);
    for (std::size_t p = 0; p < persons.size(); ++p) {
      grower.grow(connections, {config_.complete_window, false}, persons[p]);
      grower.fill_missing(persons[p]);
    }
    stopwatch.lap(&StageTimes::completing);
  }
  occupancy.clear();
  suppress(occupancy, config_, persons);
  stopwatch.lap(&StageTimes::suppressing);
  refine(reader, config_, persons);
  stopwatch.lap(&StageTimes::refining);
  return persons;
}

Inspection Decoder::inspect(const Fields& fields, int stride) const {
  const FieldReader reader(fields, stride, skeleton_, config_);
  const PixelSize size = reader.size();
  Inspection inspection{
      size, {}, {}, std::vector<std::vector<Connection>>(2 * static_cast<std::size_t>(skeleton_.num_limbs()))};
  if (size.height == 0) return inspection;
  Stopwatch no_stopwatch(nullptr);
  MapsAndSeeds image(reader, skeleton_.num_keypoints(), config_, no_stopwatch);
  inspection.seeds = image.seeds;

  const std::size_t pixels = static_cast<std::size_t>(size.height) * static_cast<std::size_t>(size.width);
  inspection.confidence_maps.resize(image.maps.size() * pixels);
  for (std::size_t k = 0; k < image.maps.size(); ++k)
    image.maps[k].render(inspection.confidence_maps.data() + k * pixels);

  const float threshold = config_.force_complete ? config_.complete_threshold : config_.connection_threshold;
  auto connections = connect_keypoints(reader, skeleton_, threshold, image.maps, config_);
  for (std::size_t limb = 0; limb < connections.size(); ++limb) {
    inspection.connections[2 * limb] = connections[limb].all(false);
    inspection.connections[2 * limb + 1] = connections[limb].all(true);
  }
  return inspection;
}

std::vector<Persons> Decoder::decode_batch(const std::vector<Fields>& images, int stride, int threads) const {
  for (std::size_t i = 0; i < images.size(); ++i) {
    try {
      check_fields(images[i], stride, skeleton_, config_);
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument("images[" + std::to_string(i) + "] " + error.what());
    }
  }
  std::vector<Persons> results(images.size());
  for_each_in_threads(images.size(), threads, [&](std::size_t i) { results[i] = decode(images[i], stride); });
  return results;
}

}  // namespace dgcn::pifpaf
