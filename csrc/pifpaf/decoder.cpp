#include "pifpaf/decoder.h"

#include <cstddef>
#include <utility>

#include "pifpaf/decode/evidence.h"
#include "pifpaf/decode/grow.h"
#include "pifpaf/decode/occupancy.h"
#include "pifpaf/decode/suppress.h"
#include "pifpaf/parallel.h"

namespace dgcn::pifpaf {
namespace {

DecoderConfig effective(DecoderConfig config) {
  config.validate();
  if (config.force_complete) {
    config.keypoint_threshold = 0.0F;
    config.keypoint_threshold_relative = 0.0F;
    config.instance_threshold = 0.0F;
  }
  return config;
}

}  // namespace

Decoder::Decoder(Skeleton skeleton, const DecoderConfig& config)
    : skeleton_(std::move(skeleton)), config_(effective(config)) {}

Persons Decoder::decode(const Fields& fields, int stride, StageTimes* times) const {
  Stopwatch stopwatch(times);
  Persons persons{skeleton_.num_keypoints(), {}};
  const PixelSize size = check_fields(fields, stride, skeleton_, config_);
  if (size.height == 0) return persons;
  Evidence evidence(fields, stride, size, config_, stopwatch);
  Occupancy occupancy(skeleton_.num_keypoints(), size, config_);
  Grower grower(skeleton_, config_);
  ConnectionSet connections = evidence.connections(skeleton_, config_.connection_threshold);
  for (const Seed& seed : evidence.seeds()) {
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
    connections = evidence.connections(skeleton_, config_.complete_threshold);
    for (std::size_t p = 0; p < persons.size(); ++p) {
      grower.grow(connections, {config_.complete_window, false}, persons[p]);
      grower.fill_missing(persons[p]);
    }
    stopwatch.lap(&StageTimes::completing);
  }
  occupancy.clear();
  suppress(occupancy, config_, persons);
  stopwatch.lap(&StageTimes::suppressing);
  return persons;
}

Inspection Decoder::inspect(const Fields& fields, int stride) const {
  const PixelSize size = check_fields(fields, stride, skeleton_, config_);
  Inspection inspection{
      size, {}, {}, std::vector<std::vector<Connection>>(2 * static_cast<std::size_t>(skeleton_.num_limbs()))};
  if (size.height == 0) return inspection;
  Stopwatch stopwatch(nullptr);
  Evidence evidence(fields, stride, size, config_, stopwatch);
  inspection.seeds = evidence.seeds();

  const std::size_t pixels = static_cast<std::size_t>(size.height) * static_cast<std::size_t>(size.width);
  inspection.confidence_maps.resize(evidence.maps().size() * pixels);
  for (std::size_t k = 0; k < evidence.maps().size(); ++k)
    evidence.maps()[k].render(inspection.confidence_maps.data() + k * pixels);

  ConnectionSet connections = evidence.connections(
      skeleton_, config_.force_complete ? config_.complete_threshold : config_.connection_threshold);
  for (std::size_t limb = 0; limb < connections.size(); ++limb) {
    for (const bool backward : {false, true})
      inspection.connections[2 * limb + (backward ? 1 : 0)] = connections[limb].all(backward);
  }
  return inspection;
}

std::vector<Persons> Decoder::decode_batch(const std::vector<Fields>& images, int stride, int threads) const {
  std::vector<Persons> results(images.size());
  for_each_in_threads(images.size(), threads, [&](std::size_t i) { results[i] = decode(images[i], stride); });
  return results;
}

}  // namespace dgcn::pifpaf
