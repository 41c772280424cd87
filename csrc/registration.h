#pragma once

namespace dgcn {

/// Whether this library has defined the operators of torch.ops.dgcn; the first call tries to. False if another library,
/// or another copy of this one, has defined them before. Kernels must not be registered then: they would replace those
/// of the other library.
bool owns_operators();

}  // namespace dgcn
