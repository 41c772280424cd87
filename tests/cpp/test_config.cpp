#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "check.h"
#include "pifpaf/config.h"

using namespace dgcn::pifpaf;

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

  // Of every option both ends of its range are valid, and the values next to them are not.
  int options = 0;
  visit_options([&](const char* name, auto option, auto low, auto high) {
    ++options;
    DecoderConfig limits;
    for (const auto value : {low, high}) {
      limits.*option = value;
      CHECK(complaint(limits).empty());
    }
    const auto is_refused = [&](auto value) {
      limits.*option = value;
      return complaint(limits).find(std::string(name) + " must be in [") == 0;
    };
    if constexpr (std::is_same_v<decltype(low), float>) {
      CHECK(is_refused(std::nextafter(low, -INFINITY)) && is_refused(std::nextafter(high, INFINITY)));
    } else if constexpr (!std::is_same_v<decltype(low), bool>) {
      CHECK(is_refused(low - 1) && (high == std::numeric_limits<decltype(high)>::max() || is_refused(high + 1)));
    }
  });
  CHECK(options == 34);
  return check_result();
}
