// What the decoder computes from the fields of an image before it grows persons.
#pragma once

#include <vector>

#include "pifpaf/fields.h"
#include "pifpaf/person.h"

namespace dgcn::pifpaf {

/// A joint from which a person may be grown.
struct Seed {
  int keypoint;
  int cell;  ///< row-major index of its cell in the PIF field
  Joint joint;
};

/// A candidate connection between two joints: a PAF cell, its limb walked in one direction.
struct Connection {
  float score;   ///< confidence·(1 − w + w·map at the target), in [0, 1], with w = connection_map_weight
  float x, y;    ///< start of the limb [px]
  Joint target;  ///< end of the limb; its confidence is not set
  int cell;      ///< row-major index of the cell in the PAF field
};

/// The result of Decoder::inspect, for plots and debugging.
struct Inspection {
  PixelSize size;
  std::vector<float> confidence_maps;                ///< [K, height, width], in [0, 1]
  std::vector<Seed> seeds;                           ///< best first
  std::vector<std::vector<Connection>> connections;  ///< [2·M]: forward and backward of each limb; sorted by cell
};

}  // namespace dgcn::pifpaf
