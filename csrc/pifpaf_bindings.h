// The parts of the module _pifpaf that are defined in files of their own.
#pragma once

#include <pybind11/pybind11.h>

namespace dgcn::pifpaf {

void bind_encoder(pybind11::module_& module);

}  // namespace dgcn::pifpaf
