// Stage 4 and 8: PAF cells as candidate connections along each limb, and where they lead from a given joint.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "pifpaf/config.h"
#include "pifpaf/decode/candidates.h"
#include "pifpaf/decode/confidence_map.h"
#include "pifpaf/fields.h"
#include "pifpaf/person.h"

namespace dgcn::pifpaf {

/// A candidate connection: a PAF cell read in one direction.
struct Connection {
  float score;   ///< of the cell and of the map at the target, in [0, 1]
  float x, y;    ///< start [px]
  Joint target;  ///< its confidence is not used
  int cell;      ///< of the PAF field it comes from
};

/// The candidate connections of one limb in both directions: its cells with at least the threshold whose score exceeds
/// it, strictly. A score is confidence·(1 − w + w·map), with the map of the keypoint it leads to and the map's share w.
///
/// Nothing is read before the first question, and no candidate is scored before its score matters. Keeps references to
/// the fields, the maps and the configuration.
class LimbConnections {
 public:
  /// Of a limb between the keypoints of the maps `from` and `to`, which are `size` large.
  LimbConnections(const Fields& fields, int limb, int stride, ConfidenceMap& from, ConfidenceMap& to, PixelSize size,
                  float threshold, const DecoderConfig& config);

  /// Where the limb, walked forward or backward, leads from `start`: a joint whose confidence is the connection's value,
  /// 0 if there is none.
  ///
  /// With s = max(connection_min_scale, start.scale), candidates count that start at most window·s/2 away along both
  /// axes. They score score·exp(−½ d²/(s/2)²), d being the distance of their start. The best two are blended with
  /// their scores as weights to a value of (score₁ + score₂)/2, unless the second is weak or leads elsewhere (see the
  /// blend_* options): then the best one stands alone with score₁/2. Ties go to the lower cell.
  Joint follow(bool backward, const Joint& start, float window);

  /// All candidates of one direction, by their cells.
  std::vector<Connection> all(bool backward);

 private:
  /// A candidate and its score from a given start.
  struct Match {
    int index = -1;  ///< in the candidates of one direction
    int cell = 0;
    float score = 0.0F;

    bool better_than(const Match& other) const {
      return other.index < 0 || score > other.score || (score == other.score && cell < other.cell);
    }
  };

  Candidates& candidates(bool backward);
  Joint blend(const Candidates& candidates, const Match& first, const Match& second) const;

  const Fields* fields_;
  int limb_;
  int stride_;
  PixelSize size_;
  float threshold_;
  const DecoderConfig* config_;
  ConfidenceMap* from_;
  ConfidenceMap* to_;
  std::optional<std::array<Candidates, 2>> candidates_;  ///< forward and backward, once asked for
};

/// [M], by limb.
using ConnectionSet = std::vector<LimbConnections>;

}  // namespace dgcn::pifpaf
