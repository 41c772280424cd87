#include <cmath>
#include <stdexcept>
#include <string>

#include "check.h"
#include "pifpaf/config.h"

using dgcn::pifpaf::DecoderConfig;

namespace {

std::string complaint(const DecoderConfig& config) {
  try {
    config.validate();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

}  // namespace

int main() {
  CHECK(complaint({}).empty());

  DecoderConfig config;
  config.seed_threshold = 1.5F;
  CHECK(complaint(config) == "seed_threshold must be in [0, 1], got 1.5");

  config = {};
  config.connection_window = std::nanf("");
  CHECK(complaint(config).find("connection_window") == 0);
  config.connection_window = INFINITY;
  CHECK(complaint(config).find("connection_window") == 0);

  config = {};
  config.map_min_sigma = 0.0F;  // would divide by zero
  CHECK(complaint(config).find("map_min_sigma") == 0);

  config = {};
  config.complete_confidence = 0.0F;  // a joint of confidence 0 is a missing one
  CHECK(complaint(config).find("complete_confidence") == 0);

  config = {};
  config.max_map_pixels = 0;
  CHECK(complaint(config).find("max_map_pixels") == 0);
  return check_result();
}
