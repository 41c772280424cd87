#include "pifpaf/config.h"

#include <sstream>
#include <stdexcept>

namespace dgcn::pifpaf {

void DecoderConfig::validate() const {
  visit_options([this](const char* name, auto option, auto low, auto high) {
    const auto value = this->*option;
    if (value >= low && value <= high) return;  // false for NaN
    std::ostringstream message;
    message << name << " must be in [" << low << ", " << high << "], got " << value;
    throw std::invalid_argument(message.str());
  });
}

}  // namespace dgcn::pifpaf
