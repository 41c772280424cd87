// Decoder, stage 3: where a limb leads from a given joint.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "pifpaf/config.h"
#include "pifpaf/decode/candidates.h"
#include "pifpaf/decode/confidence_map.h"
#include "pifpaf/decode/field_reader.h"
#include "pifpaf/inspection.h"
#include "pifpaf/person.h"

namespace dgcn::pifpaf {

/// The connections of one limb in both directions: the candidates whose score exceeds the threshold, strictly.
///
/// The PAF field is read when the limb is used for the first time. Keeps references to the fields, to the maps of both
/// keypoints and to the configuration.
class LimbConnections {
 public:
  LimbConnections(const FieldReader& fields, int limb, float threshold, ConfidenceMap& map1, ConfidenceMap& map2,
                  const DecoderConfig& config)
      : fields_(&fields), limb_(limb), threshold_(threshold), map1_(&map1), map2_(&map2), config_(&config) {}

  /// Where the limb, walked forward or backward, leads from `start`: a joint whose confidence is the connection's
  /// value, 0 if there is none.
  ///
  /// With s = max(connection_min_scale, start.scale), the candidates that start at most window·s/2 away along both axes
  /// are compared by score·exp(−½ d²/(s/2)²), d being the distance of their start. The best two are averaged with these
  /// values as weights, and the connection's value is (value₁ + value₂)/2; but if the second is weak or leads elsewhere
  /// (the blend_* options), the best one is taken alone with value₁/2. Of equal values the lower cell is better.
  Joint follow(bool backward, const Joint& start, float window);

  /// All connections of one direction, sorted by cell.
  std::vector<Connection> all(bool backward);

 private:
  /// A candidate and its value from a given start.
  struct Match {
    int entry = -1;  ///< in the candidates of one direction; −1: none
    int cell = 0;
    float value = 0.0F;

    bool is_better_than(const Match& other) const {
      return other.entry < 0 || value > other.value || (value == other.value && cell < other.cell);
    }
  };

  Candidates& candidates(bool backward);
  Joint blend(const Candidates& candidates, const Match& first, const Match& second) const;

  const FieldReader* fields_;
  int limb_;
  float threshold_;
  ConfidenceMap* map1_;
  ConfidenceMap* map2_;
  const DecoderConfig* config_;
  std::array<std::unique_ptr<Candidates>, 2> candidates_;  ///< forward and backward; null until the first use
};

}  // namespace dgcn::pifpaf
