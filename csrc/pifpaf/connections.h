// Stage 4 and 8: PAF cells as candidate connections of each directed limb, and where they lead from a given joint.
#pragma once

#include <vector>

#include "pifpaf/confidence_map.h"
#include "pifpaf/config.h"
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

/// Appends the cells of a limb whose score, confidence·(1 − w + w·map), exceeds the threshold strictly; `map` is that
/// of the keypoint the connection leads to, w the map's share. A cell is read from joint 1 to joint 2, or `backward`.
void append_connections(const std::vector<PafCell>& cells, bool backward, const ConfidenceMap& map, float threshold,
                        const DecoderConfig& config, std::vector<Connection>& connections);

/// Divides the pixels into square buckets, so that a search near a joint looks at nearby candidates only.
class BucketGrid {
 public:
  explicit BucketGrid(PixelSize size);

  int num_buckets() const { return rows_ * columns_; }
  int row(float y) const { return truncate(y / edge_, 0, rows_ - 1); }
  int column(float x) const { return truncate(x / edge_, 0, columns_ - 1); }
  int bucket(int row, int column) const { return row * columns_ + column; }

 private:
  float edge_;  ///< [px]
  int rows_;
  int columns_;
};

/// The candidates of one directed limb, sorted into the buckets of their starts.
class ConnectionList {
 public:
  /// Within a bucket candidates keep their order.
  void assign(const std::vector<Connection>& candidates, const BucketGrid& grid);

  const std::vector<Connection>& candidates() const { return candidates_; }

  /// Where the limb leads from `start`: a joint whose confidence is the connection's value, 0 if there is none.
  ///
  /// With s = max(connection_min_scale, start.scale), candidates count that start at most window·s/2 away along both
  /// axes. They score score·exp(−½ d²/(s/2)²), d being the distance of their start. The best two are blended with
  /// their scores as weights to a value of (score₁ + score₂)/2, unless the second is weak or leads elsewhere (see the
  /// blend_* options): then the best one stands alone with score₁/2. Ties go to the lower cell.
  Joint follow(const Joint& start, float window, const BucketGrid& grid, const DecoderConfig& config) const;

 private:
  std::vector<Connection> candidates_;
  std::vector<int> bucket_begin_;  ///< [num_buckets + 1] offsets into candidates_; empty if there are none
};

/// The lists of all directed limbs, by DirectedLimb::index.
struct ConnectionSet {
  BucketGrid grid;
  std::vector<ConnectionList> lists;
};

}  // namespace dgcn::pifpaf
