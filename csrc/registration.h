#pragma once

namespace dgcn {

/// Whether the namespace torch.ops.dgcn belongs to this library. The first call defines the operators, unless another
/// library, or another copy of this one, has done so before. Then no kernel may be registered: it would replace theirs.
bool owns_operators();

}  // namespace dgcn
