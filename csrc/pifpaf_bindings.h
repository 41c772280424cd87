// What the two halves of the module _pifpaf share.
#pragma once

#include <pybind11/pybind11.h>

namespace dgcn::pifpaf {

/// Adds the class Encoder to the module.
void bind_encoder(pybind11::module_& module);

/// Returns work(), called without the GIL.
template <typename Work>
auto without_gil(const Work& work) {
  const pybind11::gil_scoped_release release;
  return work();
}

}  // namespace dgcn::pifpaf
