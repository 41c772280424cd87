// The operators of the non-local layer: argument checks and outputs, for all devices. Legend: nonlocal.h.
#include <torch/csrc/stable/library.h>

#include <limits>
#include <optional>

#include "nonlocal/backend.h"
#include "registration.h"

namespace dgcn::nonlocal {
namespace {

const AffinityBackend& backend_of([[maybe_unused]] const Tensor& tensor) {
#if defined(DGCN_WITH_CUDA)
  if (tensor.is_cuda()) return kCudaBackend;
#endif
  return kCpuBackend;
}

void check_inputs(const AffinityInputs& inputs) {
  const Tensor& g = inputs.g;
  DGCN_CHECK(g.dim() == 3, "g must have shape [B, C, N], got ", to_string(g.sizes()));
  check_feature_dtype("g", g);
  constexpr int64_t kMostPositions = std::numeric_limits<int32_t>::max();  // the kernels number them with an int32
  DGCN_CHECK(inputs.positions() <= kMostPositions, "g must have at most ", kMostPositions, " positions, got ",
             inputs.positions());
  const auto check_keys = [&](const char* name, const Tensor& keys) {
    check_shape(name, keys, {inputs.images(), inputs.positions()});
    check_dtype(name, keys, accumulation_dtype(g));
    check_contiguous(name, keys);
    check_same_device(name, keys, "g", g);
  };
  check_keys("a", inputs.a);
  check_keys("b", inputs.b);
}

Tensor relu_affinity_forward(const Tensor& a, const Tensor& b, const Tensor& g) {
  const AffinityInputs inputs{a, b, g};
  check_inputs(inputs);
  const Tensor y = new_like(g);
  if (g.numel() > 0) backend_of(g).forward(inputs, y, nullptr);
  return y;
}

std::tuple<Tensor, Tensor, Tensor> relu_affinity_forward_saving(const Tensor& a, const Tensor& b, const Tensor& g) {
  const AffinityInputs inputs{a, b, g};
  check_inputs(inputs);
  const Tensor y = new_like(g);
  const AffinityBackend& backend = backend_of(g);
  const AffinitySaved saved = backend.new_saved(inputs);
  if (g.numel() > 0) backend.forward(inputs, y, &saved);
  return {y, saved.order, saved.states};
}

std::tuple<Tensor, Tensor, Tensor> relu_affinity_backward(const Tensor& grad_y, const Tensor& a, const Tensor& b,
                                                          const Tensor& g, bool need_keys, bool need_g,
                                                          const std::optional<Tensor>& order,
                                                          const std::optional<Tensor>& states) {
  const AffinityInputs inputs{a, b, g};
  check_inputs(inputs);
  check_shape("grad_y", grad_y, g.sizes());
  check_dtype("grad_y", grad_y, g.scalar_type());
  check_same_device("grad_y", grad_y, "g", g);
  DGCN_CHECK(order.has_value() == states.has_value(), "order and states must be given together, got one of them");
  AffinityGradients gradients{need_keys, need_g, new_gradient(a, need_keys), new_gradient(b, need_keys),
                              new_gradient(g, need_g)};
  if (g.numel() == 0) {
    for (Tensor* gradient : {&gradients.a, &gradients.b}) torch::stable::zero_(*gradient);
  } else if (need_keys || need_g) {
    std::optional<AffinitySaved> known;
    if (order) known = AffinitySaved{*order, *states};
    backend_of(g).backward(inputs, known ? &*known : nullptr, grad_y, gradients);
  }
  return {gradients.a, gradients.b, gradients.g};
}

template <typename Library>
void register_operators(Library& library) {
  if (!owns_operators()) return;
  library.impl("relu_affinity_forward", TORCH_BOX(&relu_affinity_forward));
  library.impl("relu_affinity_backward", TORCH_BOX(&relu_affinity_backward));
}

STABLE_TORCH_LIBRARY_IMPL(dgcn, CPU, library) { register_operators(library); }
#if defined(DGCN_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(dgcn, CUDA, library) {
  register_operators(library);
  if (owns_operators()) library.impl("relu_affinity_forward_saving", TORCH_BOX(&relu_affinity_forward_saving));
}
#endif

}  // namespace
}  // namespace dgcn::nonlocal
