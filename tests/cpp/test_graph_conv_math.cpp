// The K×K arithmetic of graph_conv.h, which the CPU and CUDA kernels share: against plain loops in float64, against
// finite differences, and divided among several "threads" as a CUDA block does it.
#include <random>
#include <vector>

#include "check.h"
#include "graph_conv/graph_conv.h"

using dgcn::graph_conv::GraphMode;
using dgcn::graph_conv::GraphParams;
using Matrix = std::vector<double>;

struct Case {
  int K;
  GraphMode mode;
  Matrix edge_weight, adjacency;
  int64_t seed = 0x123456789abcdef;
  uint32_t first_sample = 0;
  bool random = true;

  GraphParams<double> params() const {
    return {edge_weight.data(), adjacency.data(), nullptr, nullptr, random ? &seed : nullptr, first_sample, K, mode};
  }
};

struct Stage {
  Matrix effective, s;
};

// Both stages as a block of `threads` would run them, one thread after the other.
static Stage run(const Case& test, uint32_t sample, int threads) {
  const GraphParams<double> params = test.params();
  Stage stage{Matrix(test.K * test.K), Matrix(test.K * test.K)};
  for (int rank = 0; rank < threads; ++rank)
    dgcn::graph_conv::effective_adjacency(stage.effective.data(), params, sample, rank, threads);
  for (int rank = 0; rank < threads; ++rank)
    dgcn::graph_conv::row_softmax(stage.s.data(), stage.effective.data(), params, rank, threads);
  return stage;
}

static Stage expected(const Case& test, uint32_t sample) {
  const int K = test.K;
  Stage stage{Matrix(K * K), Matrix(K * K)};
  for (int e = 0; e < K * K; ++e) {
    const uint32_t bits = dgcn::edge_bits(test.seed, e / 4, test.first_sample + sample).word[e % 4];
    const double u = (bits >> 8) / 16777216.0;
    stage.effective[e] = test.random ? (u < test.adjacency[e] ? 1.0 : 0.0) : test.adjacency[e];
  }
  for (int i = 0; i < K; ++i) {
    double sum = 0;
    for (int e = i * K; e < (i + 1) * K; ++e) {
      const bool absent = test.mode.mask && stage.effective[e] == 0;
      stage.s[e] = absent ? 0 : std::exp(test.edge_weight[e] * stage.effective[e]);
      sum += stage.s[e];
    }
    for (int e = i * K; e < (i + 1) * K; ++e) stage.s[e] = sum == 0 ? 0 : stage.s[e] / sum;
  }
  return stage;
}

// <grad_p, P>, whose derivative by W_d is what edge_weight_gradient returns.
static double loss(const Case& test, uint32_t sample, const Matrix& grad_p) {
  const Stage stage = run(test, sample, 1);
  double total = 0;
  for (int r = 0; r < test.K; ++r)
    for (int c = 0; c < test.K; ++c)
      total += grad_p[r * test.K + c] * (test.mode.target ? stage.s[r * test.K + c] : stage.s[c * test.K + r]);
  return total;
}

static void check_case(Case test, uint32_t sample, std::mt19937& generator) {
  const int K = test.K, threads = 5;
  const Stage want = expected(test, sample), alone = run(test, sample, 1), together = run(test, sample, threads);
  for (int e = 0; e < K * K; ++e) {
    CHECK(alone.effective[e] == want.effective[e]);
    CHECK_NEAR(alone.s[e], want.s[e], 1e-14);
    CHECK(alone.effective[e] == together.effective[e] && alone.s[e] == together.s[e]);
  }
  Matrix in_place = alone.effective;
  dgcn::graph_conv::row_softmax(in_place.data(), in_place.data(), test.params(), 0, 1);
  CHECK(in_place == alone.s);

  std::normal_distribution<double> normal;
  Matrix grad_p(K * K), gradient = alone.effective;  // in place, as the kernels do it
  for (double& value : grad_p) value = normal(generator);
  for (int rank = 0; rank < threads; ++rank)
    dgcn::graph_conv::edge_weight_gradient(gradient.data(), alone.s.data(), grad_p.data(), gradient.data(), K,
                                           test.mode, rank, threads);
  const double step = 1e-6;
  for (int e = 0; e < K * K; ++e) {
    const double original = test.edge_weight[e];
    test.edge_weight[e] = original + step;
    const double above = loss(test, sample, grad_p);
    test.edge_weight[e] = original - step;
    const double below = loss(test, sample, grad_p);
    test.edge_weight[e] = original;
    CHECK_NEAR(gradient[e], (above - below) / (2 * step), 1e-7);
  }
}

int main() {
  std::mt19937 generator(1);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  for (const int K : {1, 2, 5, 14, 17})
    for (const bool mask : {false, true})
      for (const bool target : {false, true})
        for (const bool random : {false, true}) {
          Case test{K, {mask, target}, Matrix(K * K), Matrix(K * K)};
          test.random = random;
          test.first_sample = K == 5 ? ~0u - 3 : 0;  // with sample 3 the last number of a counter
          for (int e = 0; e < K * K; ++e) {
            test.edge_weight[e] = 2 * normal(generator);
            test.adjacency[e] = e < K ? 0 : uniform(generator);  // the first row has no edge at all
          }
          check_case(test, K == 5 ? 3 : 0, generator);
        }

  // Logits far beyond the range of exp.
  const double edge_weight[] = {1e4, -1e4, 0, 9e3}, ones[] = {1, 1, 1, 1};
  double s[4];
  dgcn::graph_conv::row_softmax(s, ones, GraphParams<double>{edge_weight, ones, nullptr, nullptr, nullptr, 0, 2, {}}, 0,
                                1);
  CHECK(s[0] == 1 && s[1] == 0 && s[2] == 0 && s[3] == 1);
  return check_result();
}
