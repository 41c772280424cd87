// The operators of the graph convolution: argument checks and outputs, for all devices. Legend: graph_conv.h.
#include <torch/csrc/stable/library.h>

#include "graph_conv/backend.h"
#include "registration.h"

namespace dgcn::graph_conv {
namespace {

const GraphConvBackend& backend_of([[maybe_unused]] const Tensor& tensor) {
#if defined(DGCN_WITH_CUDA)
  if (tensor.is_cuda()) return kCudaBackend;
#endif
  return kCpuBackend;
}

// ---- Checks ---------------------------------------------------------------------------------------------------------

void check_nodes(int64_t nodes) {
  constexpr int64_t kMostNodes = 1 << 15;  // the kernels number the K·K edges with an int
  DGCN_CHECK(1 <= nodes && nodes <= kMostNodes, "the number of nodes K must be in [1, ", kMostNodes, "], got ", nodes);
}

void check_seed(const Tensor& seed, const char* reference_name, const Tensor& reference) {
  check_shape("seed", seed, {});
  check_dtype("seed", seed, ScalarType::Long);
  check_same_device("seed", seed, reference_name, reference);
}

/// The images [first_sample, first_sample + samples) are numbered by a 32-bit word of Philox's counter.
void check_first_sample(int64_t first_sample, int64_t samples) {
  DGCN_CHECK(0 <= first_sample && first_sample <= (int64_t{1} << 32) - samples, "first_sample must be in [0, 2**32 - ",
             samples, "], got ", first_sample);
}

template <typename T>
void check_probabilities(const T* adjacency, int64_t K) {
  bool valid = true;  // without an early exit, so that the loop is vectorised
  for (int64_t e = 0; e < K * K; ++e) valid &= T(0) <= adjacency[e] && adjacency[e] <= T(1);
  if (valid) return;
  for (int64_t e = 0; e < K * K; ++e)
    DGCN_CHECK(T(0) <= adjacency[e] && adjacency[e] <= T(1), "adjacency must be in [0, 1], got ", adjacency[e], " at [",
               e / K, ", ", e % K, "]");
}

/// On the CPU only: to read the values of a GPU, the host would have to wait for its stream.
void check_probabilities(const Tensor& adjacency) {
  if (adjacency.is_cuda()) return;
  if (adjacency.scalar_type() == ScalarType::Double)
    check_probabilities(const_data<double>(adjacency), adjacency.size(0));
  else
    check_probabilities(const_data<float>(adjacency), adjacency.size(0));
}

void check_inputs(const GraphConvInputs& inputs) {
  const Tensor& x = inputs.x;
  DGCN_CHECK(x.dim() == 4, "x must have shape [B, K, H, W], got ", to_string(x.sizes()));
  check_feature_dtype("x", x);
  const int64_t K = inputs.nodes();
  check_nodes(K);
  const auto check_parameter = [&](const char* name, const Tensor& parameter, Sizes shape) {
    check_shape(name, parameter, shape);
    check_dtype(name, parameter, accumulation_dtype(x));
    check_contiguous(name, parameter);
    check_same_device(name, parameter, "x", x);
  };
  check_parameter("edge_weight", inputs.edge_weight, {K, K});
  check_parameter("adjacency", inputs.adjacency, {K, K});
  if (inputs.weight) check_parameter("weight", *inputs.weight, {K, K});
  if (inputs.bias) check_parameter("bias", *inputs.bias, {K});
  if (inputs.seed) check_seed(*inputs.seed, "x", x);
  check_first_sample(inputs.first_sample, inputs.samples());
}

/// `features`: y, a residual or a gradient of one of them.
void check_like_x(const char* name, const Tensor& features, const Tensor& x) {
  check_shape(name, features, x.sizes());
  check_dtype(name, features, x.scalar_type());
  check_same_device(name, features, "x", x);
}

/// `gate` of backward; see GraphConvBackend.
void check_gate(const Tensor& gate, const GraphConvInputs& inputs) {
  const Tensor& x = inputs.x;
  if (!x.is_cuda()) return check_like_x("gate", gate, x);
  check_shape("gate", gate, {x.size(0), gate_words(inputs.nodes()), x.size(2), x.size(3)});
  check_dtype("gate", gate, ScalarType::Int);
  check_contiguous("gate", gate);
  check_same_device("gate", gate, "x", x);
}

// ---- Operators ------------------------------------------------------------------------------------------------------

Tensor forward(const GraphConvInputs& inputs, const std::optional<Tensor>& residual,
               const std::optional<Tensor>& gate) {
  const Tensor& x = inputs.x;
  check_inputs(inputs);
  if (residual) check_like_x("residual", *residual, x);
  check_probabilities(inputs.adjacency);
  const Tensor y = new_like(x);
  if (x.numel() > 0) backend_of(x).forward(inputs, residual, y, gate);
  return y;
}

Tensor graph_conv_forward(const Tensor& x, const Tensor& edge_weight, const Tensor& adjacency,
                          const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
                          const std::optional<Tensor>& residual, const std::optional<Tensor>& seed, bool per_sample,
                          bool mask, bool target, bool relu, int64_t first_sample) {
  const GraphConvInputs inputs{x,    edge_weight,        adjacency,    weight,         bias,
                               seed, per_sample && seed, first_sample, {mask, target}, relu};
  return forward(inputs, residual, std::nullopt);
}

#if defined(DGCN_WITH_CUDA)
/// The same on a GPU with ReLU, and its gate for graph_conv_backward.
std::tuple<Tensor, Tensor> graph_conv_forward_gate(const Tensor& x, const Tensor& edge_weight, const Tensor& adjacency,
                                                   const std::optional<Tensor>& weight,
                                                   const std::optional<Tensor>& bias,
                                                   const std::optional<Tensor>& residual,
                                                   const std::optional<Tensor>& seed, bool per_sample, bool mask,
                                                   bool target, int64_t first_sample) {
  const GraphConvInputs inputs{x,    edge_weight,        adjacency,    weight,         bias,
                               seed, per_sample && seed, first_sample, {mask, target}, true};
  check_inputs(inputs);
  const Tensor gate = new_gate(inputs);
  return {forward(inputs, residual, gate), gate};
}
#endif

std::tuple<Tensor, Tensor, Tensor, Tensor> graph_conv_backward(
    const Tensor& grad_y, const Tensor& x, const std::optional<Tensor>& gate, const Tensor& edge_weight,
    const Tensor& adjacency, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
    const std::optional<Tensor>& seed, bool per_sample, bool mask, bool target, bool relu, bool need_x,
    bool need_params, int64_t first_sample) {
  const GraphConvInputs inputs{x,    edge_weight,        adjacency,    weight,         bias,
                               seed, per_sample && seed, first_sample, {mask, target}, relu};
  check_inputs(inputs);
  check_like_x("grad_y", grad_y, x);
  if (gate) check_gate(*gate, inputs);
  GraphConvGradients gradients{need_x,
                               need_params,
                               new_gradient(x, need_x),
                               new_gradient(edge_weight, need_params),
                               new_gradient(weight.value_or(edge_weight), need_params && weight),
                               new_gradient(bias.value_or(edge_weight), need_params && bias)};
  if (x.numel() == 0)
    for (Tensor* gradient : {&gradients.edge_weight, &gradients.weight, &gradients.bias})
      torch::stable::zero_(*gradient);
  else if (need_x || need_params)
    backend_of(x).backward(inputs, grad_y, gate, gradients);
  return {gradients.x, gradients.edge_weight, gradients.weight, gradients.bias};
}

Tensor sample_adjacency(const Tensor& adjacency, const Tensor& seed, std::optional<int64_t> batch,
                        int64_t first_sample) {
  DGCN_CHECK(adjacency.dim() == 2 && adjacency.size(0) == adjacency.size(1), "adjacency must have shape [K, K], got ",
             to_string(adjacency.sizes()));
  const int64_t K = adjacency.size(0);
  check_nodes(K);
  const ScalarType dtype = adjacency.scalar_type();
  DGCN_CHECK(dtype == ScalarType::Double || dtype == ScalarType::Float, "adjacency must be float64 or float32, got ",
             torch::headeronly::toString(dtype));
  check_contiguous("adjacency", adjacency);
  check_seed(seed, "adjacency", adjacency);
  DGCN_CHECK(batch.value_or(0) >= 0, "batch must be at least 0, got ", *batch);
  check_first_sample(first_sample, batch.value_or(1));
  check_probabilities(adjacency);
  const Tensor draw =
      batch ? new_strided(adjacency, {*batch, K, K}, {K * K, K, 1}) : new_strided(adjacency, {K, K}, {K, 1});
  if (draw.numel() > 0)
    backend_of(adjacency).sample_adjacency(adjacency, seed, static_cast<uint32_t>(batch ? first_sample : 0), draw);
  return draw;
}

// ---- Registration ---------------------------------------------------------------------------------------------------

template <typename Library>
void register_operators(Library& library) {
  if (!owns_operators()) return;
  library.impl("graph_conv_forward", TORCH_BOX(&graph_conv_forward));
  library.impl("graph_conv_backward", TORCH_BOX(&graph_conv_backward));
  library.impl("sample_adjacency", TORCH_BOX(&sample_adjacency));
}

STABLE_TORCH_LIBRARY_IMPL(dgcn, CPU, library) { register_operators(library); }
#if defined(DGCN_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(dgcn, CUDA, library) {
  register_operators(library);
  if (owns_operators()) library.impl("graph_conv_forward_gate", TORCH_BOX(&graph_conv_forward_gate));
}
#endif

}  // namespace
}  // namespace dgcn::graph_conv
