// The K×K arithmetic of graph_conv.h, which the CPU and CUDA kernels share: against plain loops in float64, against
// finite differences, and divided among several "threads" as a CUDA block does it.
#include <random>
#include <vector>

#include "check.h"
#include "graph_conv/graph_conv.h"

using dgcn::GraphMode;
using dgcn::GraphParams;
using Matrix = std::vector<double>;

struct Case {
  int K;
  GraphMode mode;
  bool weighted;
  Matrix edge_weight, adjacency, weight;
  int64_t seed = 0x123456789abcdef;
  bool random = true;

  GraphParams<double> params() const {
    return {edge_weight.data(),
            adjacency.data(),
            weighted ? weight.data() : nullptr,
            nullptr,
            random ? &seed : nullptr,
            K,
            mode};
  }
};

struct Stage {
  Matrix effective, s, m;
};

// Every stage as a block of `threads` would run it, one thread after the other.
static Stage run(const Case& test, uint32_t sample, int threads) {
  const int K = test.K;
  const GraphParams<double> params = test.params();
  Stage stage{Matrix(K * K), Matrix(K * K), Matrix(K * K)};
  for (int rank = 0; rank < threads; ++rank)
    dgcn::effective_adjacency(stage.effective.data(), params, sample, rank, threads);
  for (int rank = 0; rank < threads; ++rank)
    dgcn::row_softmax(stage.s.data(), stage.effective.data(), params, rank, threads);
  for (int r = 0; r < K; ++r)
    for (int c = 0; c < K; ++c)
      stage.m[r * K + c] = test.weighted ? dgcn::folded<double>(stage.s.data(), params.weight, K, test.mode, r, c)
                                         : dgcn::folded(stage.s.data(), K, test.mode, r, c);
  return stage;
}

static Stage expected(const Case& test, uint32_t sample) {
  const int K = test.K;
  Stage stage{Matrix(K * K), Matrix(K * K), Matrix(K * K)};
  for (int e = 0; e < K * K; ++e) {
    const uint32_t bits = dgcn::edge_bits(test.seed, e / 4, sample).word[e % 4];
    const double u = (bits >> 8) / 16777216.0;
    stage.effective[e] = test.random ? (u < test.adjacency[e] ? 1.0 : 0.0) : test.adjacency[e];
  }
  for (int i = 0; i < K; ++i) {
    double sum = 0;
    for (int j = 0; j < K; ++j) {
      const int e = i * K + j;
      const bool absent = test.mode.mask && stage.effective[e] == 0;
      stage.s[e] = absent ? 0 : std::exp(test.edge_weight[e] * stage.effective[e]);
      sum += stage.s[e];
    }
    for (int j = 0; j < K; ++j) stage.s[i * K + j] = sum == 0 ? 0 : stage.s[i * K + j] / sum;
  }
  for (int r = 0; r < K; ++r)
    for (int c = 0; c < K; ++c)
      for (int t = 0; t < K; ++t) {
        const double p = test.mode.target ? stage.s[r * K + t] : stage.s[t * K + r];
        stage.m[r * K + c] += p * (test.weighted ? test.weight[t * K + c] : t == c ? 1.0 : 0.0);
      }
  return stage;
}

static double loss(const Case& test, uint32_t sample, const Matrix& grad_m) {
  const Stage stage = run(test, sample, 1);
  double total = 0;
  for (size_t e = 0; e < grad_m.size(); ++e) total += grad_m[e] * stage.m[e];
  return total;
}

// Central differences of <grad_m, M> with respect to one parameter matrix.
static void check_gradient(Case test, Matrix Case::* parameter, uint32_t sample, const Matrix& grad_m,
                           const Matrix& gradient) {
  const double step = 1e-6;
  for (size_t e = 0; e < gradient.size(); ++e) {
    double& value = (test.*parameter)[e];
    const double original = value;
    value = original + step;
    const double above = loss(test, sample, grad_m);
    value = original - step;
    const double below = loss(test, sample, grad_m);
    value = original;
    CHECK_NEAR(gradient[e], (above - below) / (2 * step), 1e-7);
  }
}

static void check_case(const Case& test, uint32_t sample, std::mt19937& generator) {
  const int K = test.K, threads = 5;
  const Stage want = expected(test, sample), alone = run(test, sample, 1), together = run(test, sample, threads);
  for (int e = 0; e < K * K; ++e) {
    CHECK(alone.effective[e] == want.effective[e]);
    CHECK_NEAR(alone.s[e], want.s[e], 1e-14);
    CHECK_NEAR(alone.m[e], want.m[e], 1e-13);
    CHECK(alone.effective[e] == together.effective[e] && alone.s[e] == together.s[e] && alone.m[e] == together.m[e]);
  }
  Matrix in_place = alone.effective;
  dgcn::row_softmax(in_place.data(), in_place.data(), test.params(), 0, 1);
  CHECK(in_place == alone.s);

  std::normal_distribution<double> normal;
  Matrix grad_m(K * K), grad_weight(K * K), grad_p = grad_m, grad_edge_weight(K * K);
  for (double& value : grad_m) value = normal(generator);
  for (int r = 0; r < K; ++r)
    for (int c = 0; c < K; ++c) {
      const double* w = test.weight.data();
      grad_weight[r * K + c] = dgcn::weight_gradient<double>(alone.s.data(), grad_m.data(), K, test.mode, r, c);
      grad_p[r * K + c] =
          test.weighted ? dgcn::mixing_gradient<double>(grad_m.data(), w, K, 1, K, r, c) : grad_m[r * K + c];
    }
  for (int rank = 0; rank < threads; ++rank)
    dgcn::edge_weight_gradient(grad_edge_weight.data(), alone.s.data(), grad_p.data(), alone.effective.data(), K,
                               test.mode, rank, threads);
  if (test.weighted) check_gradient(test, &Case::weight, sample, grad_m, grad_weight);
  check_gradient(test, &Case::edge_weight, sample, grad_m, grad_edge_weight);
}

// A vector of adjacent columns gives the bits of its scalar columns, transposed weight included.
static void check_vectors(std::mt19937& generator) {
  typedef double Pair __attribute__((vector_size(16)));
  const int K = 6;
  std::normal_distribution<double> normal;
  Matrix a(K * K), b(K * K), b_transposed(K * K);
  for (int e = 0; e < K * K; ++e) {
    a[e] = normal(generator);
    b[e] = b_transposed[e % K * K + e / K] = normal(generator);
  }
  for (int r = 0; r < K; ++r)
    for (int c = 0; c < K; c += 2) {
      const Pair m = dgcn::folded<Pair>(a.data(), b.data(), K, {false, false}, r, c);
      const Pair dp = dgcn::mixing_gradient<Pair>(a.data(), b_transposed.data(), 1, K, K, r, c);
      for (int lane = 0; lane < 2; ++lane) {
        CHECK_NEAR(m[lane], dgcn::folded<double>(a.data(), b.data(), K, {false, false}, r, c + lane), 1e-14);
        CHECK_NEAR(dp[lane], dgcn::mixing_gradient<double>(a.data(), b.data(), K, 1, K, r, c + lane), 1e-14);
      }
    }
}

int main() {
  std::mt19937 generator(1);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  for (const int K : {1, 2, 5, 14, 17})
    for (const bool mask : {false, true})
      for (const bool target : {false, true})
        for (const bool weighted : {false, true})
          for (const bool random : {false, true}) {
            Case test{K, {mask, target}, weighted, Matrix(K * K), Matrix(K * K), Matrix(K * K)};
            test.random = random;
            for (int e = 0; e < K * K; ++e) {
              test.edge_weight[e] = 2 * normal(generator);
              test.weight[e] = normal(generator);
              test.adjacency[e] = e < K ? 0 : uniform(generator);  // the first row has no edge at all
            }
            check_case(test, K == 5 ? 3 : 0, generator);
          }
  check_vectors(generator);

  // Logits far beyond the range of exp.
  const double edge_weight[] = {1e4, -1e4, 0, 9e3}, ones[] = {1, 1, 1, 1};
  double s[4];
  dgcn::row_softmax(s, ones, GraphParams<double>{edge_weight, ones, nullptr, nullptr, nullptr, 2, {}}, 0, 1);
  CHECK(s[0] == 1 && s[1] == 0 && s[2] == 0 && s[3] == 1);
  return check_result();
}
