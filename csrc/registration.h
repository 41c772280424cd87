#pragma once

namespace dgcn {

/// Whether torch.ops.dgcn is this library's. The first call defines its operators, unless another library, or another
/// copy of this one, was there before: then no kernel of this one may be registered, as it would replace theirs.
bool owns_operators();

}  // namespace dgcn
