// The CUDA kernels of the graph convolution, run on the host from their own source, against plain loops in float64:
// every option, layout, alignment and dtype, with the plans that large and small GPUs would get.
#include "cuda_on_host.h"
// cuda_on_host.h comes first, since it redefines names that the standard headers must not see
#include <optional>
#include <random>

#include "cuda_memory.h"
#include "graph_conv/cuda/few_nodes_backward.cuh"
#include "graph_conv/cuda/plan.h"

namespace dgcn::graph_conv::cuda {
alignas(16) unsigned char shared_memory[cuda_on_host::kSharedBytes + cuda_on_host::kGuardBytes];
}

using dgcn::DeviceLimits;
using namespace dgcn::graph_conv;

constexpr DeviceLimits kHopper{132, 232448, 233472}, kTinyHopper{1, 232448, 233472}, kAda{2, 101376, 102400},
    kAmpere{1, 166912, 167936};

struct Case {
  int64_t B = 2;
  int K = 17;
  int64_t N = 45;
  bool channels_last = false, aligned = true;
  GraphMode mode{false, false};
  bool weight = true, bias = true, residual = false, random = true, per_sample = false, relu = true;
  bool gate_given = true, need_x = true, need_params = true;  // the gate, else that of forward
  DeviceLimits limits = kTinyHopper;
};

struct Inputs {
  Values x, residual, grad_y;  // [B, K, N], whatever the layout
  Values edge_weight, adjacency, weight, bias;
  int64_t seed = 0x0123456789abcdef;
  uint32_t first_sample = 1 << 31;
};

struct Outputs {
  Values y, grad_x, edge_weight, weight, bias;
};

// ---- The expectation ------------------------------------------------------------------------------------------------

/// Sets grad_y to 0 where an output is so close to ReLU's kink that rounding decides its sign.
static Outputs expected(const Case& c, Inputs& in, const Values& sign_given) {
  const int K = c.K;
  Outputs out{Values(c.B * K * c.N), Values(c.B * K * c.N), Values(K * K), Values(K * K), Values(K)};
  const GraphParams<double> params{
      in.edge_weight.data(), in.adjacency.data(), nullptr, nullptr, c.random ? &in.seed : nullptr, 0, K, c.mode};
  Values effective(K * K), s(K * K), m(K * K), p(K * K), dm(K * K), ds(K * K), g(K);
  for (int64_t n = 0; n < c.B; ++n) {
    effective_adjacency(effective.data(), params, in.first_sample + (c.per_sample ? n : 0), 0, 1);
    row_softmax(s.data(), effective.data(), params, 0, 1);
    for (int r = 0; r < K; ++r)
      for (int t = 0; t < K; ++t) p[r * K + t] = c.mode.target ? s[r * K + t] : s[t * K + r];
    for (int r = 0; r < K; ++r)
      for (int k = 0; k < K; ++k) {
        m[r * K + k] = c.weight ? 0 : p[r * K + k];
        if (c.weight)
          for (int t = 0; t < K; ++t) m[r * K + k] += p[r * K + t] * in.weight[t * K + k];
      }
    std::fill(dm.begin(), dm.end(), 0);
    for (int64_t pixel = 0; pixel < c.N; ++pixel) {
      const auto at = [&](int k) { return (n * K + k) * c.N + pixel; };
      for (int j = 0; j < K; ++j) {
        double value = c.bias ? in.bias[j] : 0, magnitude = std::fabs(value);
        for (int k = 0; k < K; ++k) {
          value += m[j * K + k] * in.x[at(k)];
          magnitude += std::fabs(m[j * K + k] * in.x[at(k)]);
        }
        const double sign = c.gate_given ? sign_given[at(j)] : value;
        if (c.relu && !c.gate_given && std::fabs(value) < 1e-4 * magnitude) in.grad_y[at(j)] = 0;
        g[j] = c.relu && sign <= 0 ? 0 : in.grad_y[at(j)];
        out.y[at(j)] = (c.relu ? std::max(value, 0.0) : value) + (c.residual ? in.residual[at(j)] : 0);
      }
      for (int j = 0; j < K; ++j) {
        out.bias[j] += g[j];
        for (int k = 0; k < K; ++k) {
          out.grad_x[at(k)] += m[j * K + k] * g[j];
          dm[j * K + k] += g[j] * in.x[at(k)];
        }
      }
    }
    for (int t = 0; t < K; ++t)
      for (int k = 0; k < K; ++k)
        for (int r = 0; r < K; ++r) out.weight[t * K + k] += p[r * K + t] * dm[r * K + k];
    for (int i = 0; i < K; ++i)
      for (int j = 0; j < K; ++j) {
        const int r = c.mode.target ? i : j, t = c.mode.target ? j : i;
        ds[i * K + j] = c.weight ? 0 : dm[r * K + t];
        if (c.weight)
          for (int k = 0; k < K; ++k) ds[i * K + j] += dm[r * K + k] * in.weight[t * K + k];
      }
    for (int i = 0; i < K; ++i) {
      double mean = 0;
      for (int j = 0; j < K; ++j) mean += s[i * K + j] * ds[i * K + j];
      for (int j = 0; j < K; ++j)
        out.edge_weight[i * K + j] += effective[i * K + j] * s[i * K + j] * (ds[i * K + j] - mean);
    }
  }
  return out;
}

// ---- The kernels ----------------------------------------------------------------------------------------------------

/// From [B, K, N] to the layout of the case, or back.
static Values permuted(const Case& c, const Values& values, bool back = false) {
  Values out(values.size());
  for (int64_t n = 0; n < c.B; ++n)
    for (int k = 0; k < c.K; ++k)
      for (int64_t pixel = 0; pixel < c.N; ++pixel) {
        const int64_t plain = (n * c.K + k) * c.N + pixel;
        const int64_t other = c.channels_last ? (n * c.N + pixel) * c.K + k : plain;
        back ? out[plain] = values[other] : out[other] = values[plain];
      }
  return out;
}

static void check_plan(const cuda::LaunchPlan& plan, const Case& c) {
  CHECK(plan.blocks >= 1 && plan.blocks <= plan.layout.tiles);
  CHECK(plan.threads % 32 == 0 && plan.threads % (1 << plan.layout.row_shift) == 0);
  CHECK(plan.shared_bytes <= c.limits.block_shared_bytes);
  CHECK(plan.layout.pixels * plan.layout.tiles_per_image >= c.N);
}

template <typename T, typename A>
static Outputs run(const Case& c, const Inputs& in, const Values& sign_given, bool reversed) {
  Buffer<T> x(permuted(c, in.x), c.aligned), residual(permuted(c, in.residual), c.aligned),
      grad_y(permuted(c, in.grad_y), c.aligned), y(x.values().size(), c.aligned), grad_x(x.values().size(), c.aligned);
  Buffer<uint32_t> gate(static_cast<size_t>(c.B * gate_words(c.K) * c.N));
  uint32_t* const forward_gate = c.relu && !c.gate_given ? gate.data() : nullptr;
  Buffer<A> edge_weight(in.edge_weight), adjacency(in.adjacency), weight(in.weight), bias(in.bias);
  const GraphParams<A> params{edge_weight.data(),
                              adjacency.data(),
                              c.weight ? weight.data() : nullptr,
                              c.bias ? bias.data() : nullptr,
                              c.random ? &in.seed : nullptr,
                              in.first_sample,
                              c.K,
                              c.mode};
  cuda::TileLayout features{};
  features.nodes = c.K;
  features.image_pixels = c.N;
  features.channels_last = c.channels_last;
  features.aligned = c.aligned;
  const auto launch = [&](const cuda::LaunchPlan& plan, auto kernel, const auto& arguments) {
    check_plan(plan, c);
    cuda_on_host::launch(cuda::shared_memory, plan.blocks, plan.threads, plan.shared_bytes, reversed, kernel,
                         arguments);
  };

  const int64_t size = cuda::partial_size(params);
  const T* const residual_data = c.residual ? residual.data() : nullptr;
  T* const grad_x_data = c.need_x ? grad_x.data() : nullptr;
  Buffer<A> grad_edge_weight(c.K * c.K), grad_weight(c.K * c.K), grad_bias(c.K);
  std::optional<Buffer<A>> partial;
  int64_t blocks = 0;
  // Once the number of blocks is known: memory for their parameter gradients, or null.
  const auto make_partial = [&](int64_t count) {
    blocks = count;
    partial.emplace(count * size);
    return c.need_params ? partial->data() : nullptr;
  };
  const auto fill_gate = [&] {
    if (!c.gate_given) return;
    std::fill_n(gate.data(), gate.values().size(), 0U);
    for (int64_t n = 0; n < c.B; ++n)
      for (int k = 0; k < c.K; ++k)
        for (int64_t pixel = 0; pixel < c.N; ++pixel)
          if (!(sign_given[(n * c.K + k) * c.N + pixel] <= 0))
            gate.data()[cuda::gate_index(gate_words(c.K), c.N, n, k / 32) + pixel] |= 1U << k % 32;
  };

  if constexpr (sizeof(T) <= 4) {
    if (cuda::has_few_nodes<T>(features))
      cuda::for_node_count(c.K, c.channels_last, [&](auto nodes, auto channels_last) {
        constexpr int kMost = decltype(nodes)::most;
        constexpr bool kAny = decltype(nodes)::any, kChannelsLast = decltype(channels_last)::value;
        const bool has_bulk_copies = c.limits.multiprocessor_shared_bytes >= kHopper.multiprocessor_shared_bytes;
        cuda::LaunchPlan plan = cuda::plan_few_nodes_forward<T, kMost>(features, c.B, c.residual, c.limits);
        plan.layout.bulk = plan.layout.bulk && has_bulk_copies;
        const cuda::CudaForwardArguments<T, float> forward{
            plan.layout, params, x.data(), residual_data, y.data(), forward_gate, c.per_sample, c.relu, nullptr};
        launch(plan, &cuda::few_nodes_forward_kernel<T, kMost, kAny, kChannelsLast>, forward);
        CHECK(y.guards_intact() && gate.guards_intact());
        fill_gate();
        plan = cuda::plan_few_nodes_backward<T, kMost>(features, c.B, c.limits);
        plan.layout.bulk = plan.layout.bulk && has_bulk_copies;
        const cuda::CudaBackwardArguments<T, float> backward{plan.layout,
                                                             params,
                                                             grad_y.data(),
                                                             x.data(),
                                                             c.relu ? gate.data() : nullptr,
                                                             grad_x_data,
                                                             make_partial(plan.blocks),
                                                             c.per_sample,
                                                             plan.parts,
                                                             nullptr};
        launch(plan, &cuda::few_nodes_backward_kernel<T, kMost, kAny, kChannelsLast>, backward);
      });
  }
  if (!cuda::has_few_nodes<T>(features)) {
    cuda::LaunchPlan plan;
    CHECK((cuda::plan_forward<T, A>(plan, features, c.B, c.limits)));
    Buffer<A> workspace(plan.workspace);
    const cuda::CudaForwardArguments<T, A> forward{plan.layout,  params,       x.data(), residual_data,   y.data(),
                                                   forward_gate, c.per_sample, c.relu,   workspace.data()};
    launch(plan, plan.matrices_in_shared ? &cuda::forward_kernel<T, A, true> : &cuda::forward_kernel<T, A, false>,
           forward);
    CHECK(y.guards_intact() && gate.guards_intact() && workspace.guards_intact());
    fill_gate();
    CHECK((cuda::plan_backward<T, A>(plan, features, c.B, c.limits)));
    Buffer<A> other_workspace(plan.workspace);
    const cuda::CudaBackwardArguments<T, A> backward{plan.layout,
                                                     params,
                                                     grad_y.data(),
                                                     x.data(),
                                                     c.relu ? gate.data() : nullptr,
                                                     grad_x_data,
                                                     make_partial(plan.blocks),
                                                     c.per_sample,
                                                     plan.parts,
                                                     other_workspace.data()};
    launch(plan, plan.matrices_in_shared ? &cuda::backward_kernel<T, A, true> : &cuda::backward_kernel<T, A, false>,
           backward);
    CHECK(other_workspace.guards_intact());
  }
  CHECK(grad_x.guards_intact() && partial->guards_intact());
  if (c.need_params) {
    const cuda::ReduceArguments<A> reduce{partial->data(),
                                          blocks,
                                          size,
                                          grad_edge_weight.data(),
                                          c.weight ? grad_weight.data() : nullptr,
                                          c.bias ? grad_bias.data() : nullptr,
                                          c.K};
    cuda_on_host::launch(cuda::shared_memory, (size + cuda::kReduceEntries - 1) / cuda::kReduceEntries,
                         cuda::kReduceThreads, cuda::kReduceThreads * sizeof(A), reversed, &cuda::reduce_kernel<A>,
                         reduce);
    CHECK(grad_edge_weight.guards_intact() && grad_weight.guards_intact() && grad_bias.guards_intact());
  }
  return {permuted(c, y.values(), true), permuted(c, grad_x.values(), true), grad_edge_weight.values(),
          grad_weight.values(), grad_bias.values()};
}

// ---- The comparison -------------------------------------------------------------------------------------------------

static bool same_bits(const Values& a, const Values& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

/// ‖got − want‖∞ against `tolerance` of the largest value; NaN fails.
static void check_near(const char* name, const Case& c, const Values& got, const Values& want, double tolerance) {
  double scale = 1e-30, error = 0;
  for (const double value : want) scale = std::max(scale, std::fabs(value));
  for (size_t e = 0; e < want.size(); ++e)
    error = std::isnan(got[e]) ? INFINITY : std::max(error, std::fabs(got[e] - want[e]));
  CHECK_NEAR(error / scale, 0, tolerance);
  if (!(error <= tolerance * scale))
    std::fprintf(
        stderr, "  in %s: B=%d K=%d N=%d channels_last=%d aligned=%d target=%d weight=%d relu=%d gate_given=%d\n", name,
        int(c.B), c.K, int(c.N), c.channels_last, c.aligned, c.mode.target, c.weight, c.relu, c.gate_given);
}

template <typename T, typename A>
static void check_case(const Case& c) {
  static std::mt19937 generator(7);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  const auto draw = [&](size_t size, auto rounded_to) {
    Values values(size);
    for (double& value : values) value = static_cast<double>(static_cast<decltype(rounded_to)>(normal(generator)));
    return values;
  };
  const size_t features = c.B * c.K * c.N, edges = c.K * c.K;
  Inputs in{draw(features, T()), draw(features, T()), draw(features, T()), draw(edges, A()),
            Values(edges),       draw(edges, A()),    draw(c.K, A())};
  for (size_t e = 0; e < edges; ++e)  // the first node has no edge at all
    in.adjacency[e] = e < static_cast<size_t>(c.K) ? 0 : static_cast<A>(uniform(generator));
  const Values sign_given = draw(features, T());

  const Outputs want = expected(c, in, sign_given), got = run<T, A>(c, in, sign_given, false),
                reversed = run<T, A>(c, in, sign_given, true);
  const double parameters = sizeof(A) == 8 ? 1e-12 : 1e-4, pixels = sizeof(T) == 2 ? 5e-3 : parameters;
  check_near("y", c, got.y, want.y, pixels);
  CHECK(same_bits(got.y, reversed.y));
  if (c.need_x) {
    check_near("grad_x", c, got.grad_x, want.grad_x, pixels);
    CHECK(same_bits(got.grad_x, reversed.grad_x));
  }
  if (!c.need_params) return;
  check_near("grad_edge_weight", c, got.edge_weight, want.edge_weight, parameters);
  CHECK(same_bits(got.edge_weight, reversed.edge_weight));
  if (c.weight) check_near("grad_weight", c, got.weight, want.weight, parameters);
  CHECK(!c.weight || same_bits(got.weight, reversed.weight));
  if (c.bias) check_near("grad_bias", c, got.bias, want.bias, parameters);
  CHECK(!c.bias || same_bits(got.bias, reversed.bias));
}

#if defined(__SANITIZE_ADDRESS__)
constexpr int kRandomCases = 200;  // takes several times as long
#else
constexpr int kRandomCases = 2000;
#endif

/// Every option in both states and every plan, in random combinations.
static void check_random(std::mt19937& generator, int count) {
  const auto flip = [&] { return generator() % 2 == 0; };
  for (int i = 0; i < count; ++i) {
    Case c;
    c.B = 1 + generator() % 3;
    c.N = 1 + generator() % (i % 16 == 0 ? 1500 : 70);
    c.channels_last = flip();
    c.aligned = flip() || flip();
    c.mode = {flip(), flip()};
    c.weight = flip(), c.bias = flip(), c.residual = flip(), c.random = flip();
    c.per_sample = c.random && flip();
    c.relu = flip(), c.gate_given = flip(), c.need_x = flip() || flip(), c.need_params = flip() || flip();
    const int common[] = {14, 16, 17, 19, 21};
    c.K = flip() ? common[generator() % 5] : flip() ? 1 + generator() % 24 : 1 + generator() % (c.N > 70 ? 33 : 140);
    const DeviceLimits limits[] = {kTinyHopper, kHopper, kAda, kAmpere};
    c.limits = limits[generator() % 4];
    if (i % 3 == 0) check_case<float, float>(c);
    if (i % 3 == 1) check_case<double, double>(c);
    if (i % 3 == 2) check_case<Bfloat16, float>(c);
  }
}

int main() {
  std::mt19937 generator(11);
  check_random(generator, kRandomCases);

  // Several tiles an image, several images a block, changes of sample within a block, the last tile short.
  for (const bool channels_last : {false, true})
    for (const DeviceLimits& limits : {kTinyHopper, kHopper, kAda}) {
      Case c;
      c.B = 3, c.N = 1301, c.channels_last = channels_last, c.per_sample = true, c.residual = true, c.limits = limits;
      check_case<float, float>(c);
      c.N = 640, c.K = 16, c.gate_given = false;
      check_case<Bfloat16, float>(c);
    }
  // Matrices that fill shared memory, and matrices that only fit into the workspace.
  for (const int K : {64, 65, 133})
    for (const DeviceLimits& limits : {kTinyHopper, kAda}) {
      Case c;
      c.B = 4, c.K = K, c.N = 83, c.per_sample = true, c.limits = limits, c.gate_given = K == 65,
      c.mode.target = K == 64;
      check_case<float, float>(c);
      if (K == 64) check_case<Bfloat16, float>(c);
      if (K != 65) continue;
      c.channels_last = true;
      check_case<double, double>(c);
    }

  // sample_kernel draws what effective_adjacency() draws.
  const int K = 19, samples = 5;
  const Values adjacency = Values(K * K, 0.4);
  Buffer<float> probability(adjacency), draw(samples * K * K);
  const int64_t seed = -3;
  GraphParams<float> params{};
  params.adjacency = probability.data();
  params.seed = &seed;
  params.first_sample = 70;
  params.nodes = K;
  cuda_on_host::launch(cuda::shared_memory, 3, cuda::kSampleThreads, 0, false, &cuda::sample_kernel<float>, draw.data(),
                       int64_t{samples}, params);
  CHECK(draw.guards_intact());
  std::vector<float> want(K * K);
  params.first_sample = 0;
  for (int n = 0; n < samples; ++n) {
    effective_adjacency(want.data(), params, 70 + n, 0, 1);
    CHECK(std::equal(want.begin(), want.end(), draw.data() + n * K * K));
  }

  // Too large for any plan: refused.
  cuda::TileLayout features{};
  features.nodes = 5000;
  features.image_pixels = 100;
  cuda::LaunchPlan plan;
  CHECK(!(cuda::plan_forward<float, float>(plan, features, 1, kHopper)));
  CHECK(!(cuda::plan_backward<float, float>(plan, features, 1, kHopper)));
  return check_result();
}
