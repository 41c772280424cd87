#include "pifpaf/decoder.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "pifpaf/confidence_map.h"
#include "pifpaf/connections.h"
#include "pifpaf/grow.h"
#include "pifpaf/occupancy.h"
#include "pifpaf/seeds.h"
#include "pifpaf/suppress.h"

namespace dgcn::pifpaf {
namespace {

/// What the fields say once each keypoint's confidence map has been consulted.
struct Evidence {
  std::vector<Seed> seeds;   ///< best first
  ConnectionSet confident;   ///< what persons grow along
  ConnectionSet permissive;  ///< what they are completed along; empty lists without force_complete
};

DecoderConfig effective(DecoderConfig config) {
  config.validate();
  if (config.force_complete) {
    config.keypoint_threshold = 0.0F;
    config.keypoint_threshold_relative = 0.0F;
    config.instance_threshold = 0.0F;
  }
  return config;
}

/// Stages 1 to 4, one keypoint at a time: whatever looks a keypoint's map up does so while that map is in the cache.
/// Calls visit(keypoint, map) with each.
template <typename Visit>
Evidence collect(const Fields& fields, int stride, PixelSize size, const Skeleton& skeleton,
                 const DecoderConfig& config, Visit visit) {
  const std::size_t num_lists = 2 * static_cast<std::size_t>(skeleton.num_limbs());
  const BucketGrid grid(size);
  Evidence evidence{{}, {grid, std::vector<ConnectionList>(num_lists)}, {grid, std::vector<ConnectionList>(num_lists)}};

  const float paf_threshold = config.force_complete ? std::min(config.connection_threshold, config.complete_threshold)
                                                    : config.connection_threshold;
  std::vector<std::vector<PafCell>> paf_cells(static_cast<std::size_t>(skeleton.num_limbs()));
  for (int limb = 0; limb < skeleton.num_limbs(); ++limb)
    read_paf(fields, limb, stride, paf_threshold, paf_cells[static_cast<std::size_t>(limb)]);

  ConfidenceMap map(size, config);
  std::vector<PifCell> pif_cells;
  std::vector<Connection> connections;
  for (int k = 0; k < skeleton.num_keypoints(); ++k) {
    read_pif(fields, k, stride, std::min(config.map_threshold, config.seed_threshold), pif_cells);
    map.paint(pif_cells);
    append_seeds(k, pif_cells, map, config, evidence.seeds);
    for (const DirectedLimb& limb : skeleton.outgoing(k)) {
      const int arriving = limb.reverse();  // the one whose targets are joints of this keypoint
      const std::vector<PafCell>& cells = paf_cells[static_cast<std::size_t>(arriving / 2)];
      const auto fill = [&](ConnectionSet& set, float threshold) {
        connections.clear();
        append_connections(cells, arriving % 2 == 1, map, threshold, config, connections);
        set.lists[static_cast<std::size_t>(arriving)].assign(connections, grid);
      };
      fill(evidence.confident, config.connection_threshold);
      if (config.force_complete) fill(evidence.permissive, config.complete_threshold);
    }
    visit(k, map);
    map.clear();
  }
  sort_seeds(config, evidence.seeds);
  return evidence;
}

}  // namespace

Decoder::Decoder(Skeleton skeleton, const DecoderConfig& config)
    : skeleton_(std::move(skeleton)), config_(effective(config)) {}

Persons Decoder::decode(const Fields& fields, int stride) const {
  const int num_keypoints = skeleton_.num_keypoints();
  Persons persons{num_keypoints, {}};
  const PixelSize size = check_fields(fields, stride, skeleton_, config_);
  if (size.height == 0) return persons;
  const Evidence evidence = collect(fields, stride, size, skeleton_, config_, [](int, const ConfidenceMap&) {});

  Occupancy occupancy(num_keypoints, size, config_);
  Grower grower(skeleton_, config_);
  for (const Seed& seed : evidence.seeds) {
    if (persons.size() == static_cast<std::size_t>(config_.max_persons)) break;
    if (occupancy.occupied(seed.keypoint, seed.joint)) continue;
    persons.joints.resize(persons.joints.size() + static_cast<std::size_t>(num_keypoints));
    Joint* person = persons[persons.size() - 1];
    person[seed.keypoint] = seed.joint;
    grower.grow(evidence.confident, {config_.connection_window, config_.reverse_match}, person);
    for (int k = 0; k < num_keypoints; ++k) {
      if (person[k].found()) occupancy.mark(k, person[k]);
    }
  }
  for (std::size_t p = 0; config_.force_complete && p < persons.size(); ++p) {
    grower.grow(evidence.permissive, {config_.complete_window, false}, persons[p]);
    grower.fill_missing(persons[p]);
  }
  occupancy.clear();
  suppress(occupancy, config_, persons);
  return persons;
}

Inspection Decoder::inspect(const Fields& fields, int stride) const {
  const PixelSize size = check_fields(fields, stride, skeleton_, config_);
  Inspection inspection{
      size, {}, {}, std::vector<std::vector<Connection>>(2 * static_cast<std::size_t>(skeleton_.num_limbs()))};
  if (size.height == 0) return inspection;
  const std::size_t pixels = static_cast<std::size_t>(size.height) * static_cast<std::size_t>(size.width);
  inspection.confidence_maps.resize(static_cast<std::size_t>(skeleton_.num_keypoints()) * pixels);
  Evidence evidence = collect(fields, stride, size, skeleton_, config_, [&](int keypoint, const ConfidenceMap& map) {
    std::copy(map.pixels().begin(), map.pixels().end(),
              inspection.confidence_maps.data() + static_cast<std::size_t>(keypoint) * pixels);
  });

  inspection.seeds = std::move(evidence.seeds);
  const ConnectionSet& set = config_.force_complete ? evidence.permissive : evidence.confident;
  for (std::size_t limb = 0; limb < set.lists.size(); ++limb) {
    std::vector<Connection>& connections = inspection.connections[limb];
    connections = set.lists[limb].candidates();
    std::sort(connections.begin(), connections.end(),
              [](const Connection& a, const Connection& b) { return a.cell < b.cell; });
  }
  return inspection;
}

std::vector<Persons> Decoder::decode_batch(const std::vector<Fields>& images, int stride, int threads) const {
  if (threads < 0) throw std::invalid_argument("threads must be at least 0, got " + std::to_string(threads));
  const std::size_t wanted = threads > 0 ? static_cast<std::size_t>(threads) : std::thread::hardware_concurrency();
  const std::size_t helpers = std::max<std::size_t>(std::min(wanted, images.size()), 1) - 1;

  std::vector<Persons> results(images.size());
  std::vector<std::exception_ptr> errors(images.size());
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < images.size(); i = next++) {
      try {
        results[i] = decode(images[i], stride);
      } catch (...) {  // carried to the calling thread
        errors[i] = std::current_exception();
      }
    }
  };

  std::vector<std::thread> pool;
  pool.reserve(helpers);
  try {
    while (pool.size() < helpers) pool.emplace_back(work);
  } catch (const std::system_error&) {
    // The machine has no thread left to give: those that started, and this one, do the work.
  }
  work();
  for (std::thread& thread : pool) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  return results;
}

}  // namespace dgcn::pifpaf
