// The CUDA kernels of the non-local layer, run on the host from their own source, against the dense form in float64:
// layouts, dtypes, ties, NaN and infinity, one chunk and many. The sorts themselves are std::stable_sort here.
#include "cuda_on_host.h"
// cuda_on_host.h comes first, since it redefines names that the standard headers must not see
#include <numeric>
#include <random>
#include <tuple>

#include "cuda_memory.h"
#include "nonlocal/cuda/kernels.cuh"

namespace dgcn::nonlocal::cuda {
alignas(16) unsigned char shared_memory[cuda_on_host::kSharedBytes + cuda_on_host::kGuardBytes];
}

using namespace dgcn::nonlocal;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN(), kInfinity = std::numeric_limits<double>::infinity();

struct Case {
  FeatureShape shape{2, 3, 5};
  bool rows = false;     // channels are neighbours
  bool aligned = false;  // to 16 bytes
  bool need_keys = true, need_g = true;
};

struct Inputs {
  Values a, b;       // [B, N]
  Values g, grad_y;  // [B, C, N]
};

struct Outputs {
  Values y, grad_a, grad_b, grad_g;
};

// ---- The expectation ------------------------------------------------------------------------------------------------

/// The dense form; with `magnitudes`, what its terms' absolute values sum to.
static Outputs expected(const FeatureShape& shape, const Inputs& in, bool magnitudes) {
  const auto [B, C, N] = shape;
  const auto of = [&](double value) { return magnitudes ? std::fabs(value) : value; };
  Outputs out{Values(B * C * N), Values(B * N), Values(B * N), Values(B * C * N)};
  for (int64_t n = 0; n < B; ++n)
    for (int64_t i = 0; i < N; ++i)
      for (int64_t j = 0; j < N; ++j) {
        const double sum = in.a[n * N + i] + in.b[n * N + j];
        const double affinity = sum <= 0 ? 0 : sum;
        double dot = 0;
        for (int64_t c = 0; c < C; ++c) {
          const double g = of(in.g[(n * C + c) * N + j]), h = of(in.grad_y[(n * C + c) * N + i]);
          out.y[(n * C + c) * N + i] += affinity * g / N;
          out.grad_g[(n * C + c) * N + j] += affinity * h / N;
          dot += g * h;
        }
        if (sum <= 0) continue;
        out.grad_a[n * N + i] += dot / N;
        out.grad_b[n * N + j] += dot / N;
      }
  return out;
}

static bool same_bits(const Values& a, const Values& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

// ---- The kernels ----------------------------------------------------------------------------------------------------

/// A [B, C, N] tensor in memory, as rows or contiguous.
template <typename T>
struct Tensor {
  FeatureShape shape;
  bool rows;
  Buffer<T> memory;

  explicit Tensor(const Case& c)
      : shape(c.shape), rows(c.rows), memory(shape.images * shape.channels * shape.positions, c.aligned) {}
  Tensor(const Case& c, const Values& values) : Tensor(c) {
    for_each([&](int64_t index, T& element) { element = static_cast<T>(values[index]); });
  }

  FeatureView<T> features() {
    const auto [B, C, N] = shape;
    return rows ? FeatureView<T>{memory.data(), C * N, 1, C} : FeatureView<T>{memory.data(), C * N, N, 1};
  }
  Values values() {
    Values values(shape.images * shape.channels * shape.positions);
    for_each([&](int64_t index, const T& element) { values[index] = static_cast<double>(element); });
    CHECK(memory.guards_intact());
    return values;
  }

 private:
  template <typename Body>
  void for_each(Body body) {
    const auto [B, C, N] = shape;
    const FeatureView<T> own = features();
    for (int64_t e = 0; e < B * C * N; ++e)
      body(e, own.data[e / (C * N) * own.image_stride + e / N % C * own.channel_stride + e % N * own.position_stride]);
  }
};

/// As cub::BlockRadixSort sorts.
template <typename Bits>
struct BlockSort {
  static constexpr int64_t kBytes = 0;

  static void sort(unsigned char*, Bits (&bits)[cuda::kBlockSortStrip], uint32_t (&items)[cuda::kBlockSortStrip]) {
    static std::vector<std::pair<Bits, uint32_t>> sorted(cuda::kBlockSortItems);
    const auto own = sorted.begin() + threadIdx.x * cuda::kBlockSortStrip;
    for (int i = 0; i < cuda::kBlockSortStrip; ++i) own[i] = {bits[i], items[i]};
    __syncthreads();
    static bool is_sorted;
    is_sorted = false;
    __syncthreads();
    if (!is_sorted)
      std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    is_sorted = true;
    __syncthreads();
    for (int i = 0; i < cuda::kBlockSortStrip; ++i) std::tie(bits[i], items[i]) = own[i];
  }
};

template <typename T, typename A>
class Run {
 public:
  Run(const Case& c, const Inputs& in, bool reversed)
      : case_(c), reversed_(reversed), a_(in.a), b_(in.b), order_(2 * in.a.size()), in_(in) {
    sort();
    if (2 * c.shape.positions <= cuda::kBlockSortItems) check_block_sort();
  }

  /// As backend.cu does it: backward has the order and the states of forward.
  Outputs outputs() {
    const auto [B, C, N] = case_.shape;
    Tensor<T> g(case_, in_.g), grad_y(case_, in_.grad_y), y(case_), grad_g(case_);
    Buffer<A> grad_a(B * N), grad_b(B * N);
    const auto rows = row_converter();

    cuda::Scan<T, A> descending = make_scan();
    descending.added = rows.input(cuda::as_const(g.features()));
    descending.values = rows.output(y.features());
    cuda::start_scan(descending, false, launcher());
    cuda::finish_scan(descending, launcher());
    rows.copy_back(descending.values, y.features());

    cuda::Scan<T, A> ascending = make_scan();
    ascending.ascending = true;
    ascending.added = rows.input(cuda::as_const(grad_y.features()));
    if (case_.need_keys) {
      descending.values = {};
      descending.last_image_first = true;
      descending.added = ascending.dotted = rows.input(cuda::as_const(g.features()));
      descending.dotted = ascending.added;
      descending.dots = grad_a.data();
      descending.opposite = ascending.chunk_states;
      cuda::finish_scan(descending, launcher());
      ascending.dots = grad_b.data();
    }
    if (case_.need_g) ascending.values = rows.output(grad_g.features());
    cuda::start_scan(ascending, case_.need_keys, launcher());
    cuda::finish_scan(ascending, launcher());
    if (case_.need_g) rows.copy_back(ascending.values, grad_g.features());

    for (auto& own : rows_) CHECK(own.guards_intact());
    for (auto& states : states_) CHECK(states.guards_intact());
    CHECK(grad_a.guards_intact() && grad_b.guards_intact());
    return {y.values(), grad_a.values(), grad_b.values(), grad_g.values()};
  }

 private:
  auto launcher() const {
    return [reversed = reversed_](auto kernel, int64_t blocks, int threads, int64_t shared_bytes,
                                  const auto&... arguments) {
      CHECK(blocks > 0 && threads % cuda::kWarp == 0 && shared_bytes <= 48 * 1024);
      cuda_on_host::launch(cuda::shared_memory, blocks, threads, shared_bytes, reversed, kernel, arguments...);
    };
  }

  auto row_converter() {
    const auto allocate = [this](int64_t count) { return rows_.emplace_back(count).data(); };
    return cuda::RowConverter<T, decltype(allocate), decltype(launcher())>(case_.shape, allocate, launcher());
  }

  void sort() {
    using Key = cuda::SortKey<A>;
    const size_t count = order_.values().size();
    const auto [B, C, N] = case_.shape;
    std::vector<Key> keys(count);
    std::vector<uint32_t> items(count);
    launcher()(&cuda::sort_key_kernel<A>, 3, cuda::kSortKeyThreads, 0, static_cast<const A*>(a_.data()),
               static_cast<const A*>(b_.data()), B, N, keys.data(), items.data());
    std::vector<size_t> sorted(count);
    std::iota(sorted.begin(), sorted.end(), 0);
    const int bits = cuda::kKeyBits<A> + cuda::image_bits(B);
    CHECK(std::all_of(keys.begin(), keys.end(),
                      [&](Key key) { return key >> (bits - 1) < 2; }));  // the bits that are sorted
    std::stable_sort(sorted.begin(), sorted.end(), [&](size_t i, size_t j) { return keys[i] < keys[j]; });
    for (size_t e = 0; e < count; ++e) order_.data()[e] = items[sorted[e]];
  }

  void check_block_sort() {
    using Sort = BlockSort<cuda::ItemBits<A>>;
    const auto [B, C, N] = case_.shape;
    Buffer<uint32_t> order(2 * B * N);
    launcher()(&cuda::block_sort_kernel<A, Sort>, B, cuda::kBlockSortThreads, Sort::kBytes,
               static_cast<const A*>(a_.data()), static_cast<const A*>(b_.data()), N, order.data());
    CHECK(order.guards_intact() && same_bits(order.values(), order_.values()));
  }

  cuda::Scan<T, A> make_scan() {
    const auto [B, C, N] = case_.shape;
    cuda::Scan<T, A> scan{};
    scan.sequence = {a_.data(), b_.data(), order_.data(), N};
    scan.shape = case_.shape;
    scan.chunks = cuda::chunks_of(N);
    Buffer<double>& states = states_.emplace_back(2 * B * (scan.chunks + 1) * C);
    scan.chunk_states = {static_cast<ScanState<double>*>(static_cast<void*>(states.data())),
                         states_.emplace_back(B * scan.chunks).data()};
    return scan;
  }

  const Case& case_;
  bool reversed_;
  Buffer<A> a_, b_;
  Buffer<uint32_t> order_;
  const Inputs& in_;
  std::deque<Buffer<T>> rows_;
  std::deque<Buffer<double>> states_;
};

// ---- The comparison -------------------------------------------------------------------------------------------------

/// As in tests/relu_affinity_cases.py: allows one rounding to T, and 1e-13 of the terms' magnitudes. NaN must be where
/// it is expected; with infinite input, any value that is not finite.
template <typename T>
static void check_rounded(const char* name, const Case& c, const Values& got, const Values& want,
                          const Values& magnitude, bool infinite) {
  const double rounding = sizeof(T) == 8 ? 0 : sizeof(T) == 4 ? 6e-8 : 4e-3;
  double excess = 0;
  for (size_t e = 0; e < want.size(); ++e) {
    if (!std::isfinite(want[e])) {
      excess = std::max(excess, (infinite ? std::isfinite(got[e]) : !std::isnan(got[e])) ? kInfinity : 0);
    } else if (!infinite) {
      const double allowed = rounding * std::fabs(want[e]) + 1e-13 * magnitude[e] + (sizeof(T) == 8 ? 0 : 1e-37);
      excess = std::max(excess, std::isnan(got[e]) ? kInfinity : std::fabs(got[e] - want[e]) - allowed);
    }
  }
  CHECK(excess <= 0);
  if (excess > 0)
    std::fprintf(stderr, "  %s is off by %.1e too much in: B=%d C=%d N=%d rows=%d keys=%d g=%d\n", name, excess,
                 int(c.shape.images), int(c.shape.channels), int(c.shape.positions), c.rows, c.need_keys, c.need_g);
}

template <typename T, typename A>
static void check_case(const Case& c, const Inputs& in, bool infinite = false) {
  const Outputs want = expected(c.shape, in, false), magnitude = expected(c.shape, in, true);
  const Outputs got = Run<T, A>(c, in, false).outputs(), reversed = Run<T, A>(c, in, true).outputs();
  check_rounded<T>("y", c, got.y, want.y, magnitude.y, infinite);
  CHECK(same_bits(got.y, reversed.y));
  if (c.need_g) {
    check_rounded<T>("grad_g", c, got.grad_g, want.grad_g, magnitude.grad_g, infinite);
    CHECK(same_bits(got.grad_g, reversed.grad_g));
  }
  if (!c.need_keys) return;
  check_rounded<A>("grad_a", c, got.grad_a, want.grad_a, magnitude.grad_a, infinite);
  check_rounded<A>("grad_b", c, got.grad_b, want.grad_b, magnitude.grad_b, infinite);
  CHECK(same_bits(got.grad_a, reversed.grad_a) && same_bits(got.grad_b, reversed.grad_b));
}

/// Numbers of order one, rounded to T and A. `grain`: the keys of the first image are multiples of it, so that there
/// are ties and pairs with a + b = 0.
template <typename T, typename A>
static Inputs draw(const FeatureShape& shape, double grain = 0.25, double offset = 0) {
  static std::mt19937 generator(3);
  std::normal_distribution<double> normal;
  Inputs in{Values(shape.images * shape.positions), {}, {}, {}};
  in.b = in.a;
  in.g = in.grad_y = Values(shape.images * shape.channels * shape.positions);
  for (Values* keys : {&in.a, &in.b})
    for (size_t e = 0; e < keys->size(); ++e) {
      double key = normal(generator);
      if (e < static_cast<size_t>(shape.positions) && grain > 0) key = std::round(key / grain) * grain;
      (*keys)[e] = static_cast<A>(key + (keys == &in.a ? offset : -offset));
    }
  for (Values* features : {&in.g, &in.grad_y})
    for (double& feature : *features) feature = static_cast<double>(static_cast<T>(normal(generator)));
  return in;
}

template <typename T, typename A>
static void check_sizes() {
  // One item, a full chunk, one more; channels that are not the multiple of a thread's, fill no warp, some, two rounds.
  const FeatureShape shapes[] = {{1, 1, 1},    {2, 3, 5},    {3, 33, 64}, {1, 64, 65}, {2, 65, 150},
                                 {1, 128, 70}, {1, 600, 40}, {5, 2, 129}, {1, 8, 2100}};
  for (const FeatureShape& shape : shapes)
    for (const bool rows : {false, true}) {
      Case c;
      c.shape = shape, c.rows = c.aligned = rows;
      check_case<T, A>(c, draw<T, A>(shape));
    }
  Case unaligned;
  unaligned.shape = {2, 8, 20}, unaligned.rows = true;
  check_case<T, A>(unaligned, draw<T, A>(unaligned.shape));
}

int main() {
  check_sizes<float, float>();
  check_sizes<double, double>();
  check_sizes<Bfloat16, float>();

  for (const bool need_keys : {false, true}) {
    Case c;
    c.shape = {3, 40, 90}, c.need_keys = need_keys, c.need_g = !need_keys;
    check_case<float, float>(c, draw<float, float>(c.shape));
  }

  // Hard keys: offsets, all equal, no pair active, all pairs active, almost cancelling.
  Case c;
  c.shape = {2, 5, 200};
  for (const double offset : {1e3, -1e3}) check_case<float, float>(c, draw<float, float>(c.shape, 0, offset));
  check_case<float, float>(c, draw<float, float>(c.shape, 100));
  for (const double sign : {-1.0, 1.0}) {
    Inputs in = draw<float, float>(c.shape);
    for (Values* keys : {&in.a, &in.b})
      for (double& key : *keys) key = sign * std::fabs(key);
    check_case<float, float>(c, in);
    check_case<double, double>(c, in);
  }
  Inputs near = draw<float, float>(c.shape, 0);
  for (size_t e = 0; e < near.a.size(); ++e) {
    near.a[e] = static_cast<float>(1 + 1e-6 * near.a[e]);
    near.b[e] = static_cast<float>(-1 + 1e-6 * near.b[e]);
  }
  check_case<float, float>(c, near);

  // NaN and infinity of either sign, at some position of the second image; and NaN that is active with nothing.
  for (const double sign : {1.0, -1.0})
    for (Values Inputs::* which : {&Inputs::a, &Inputs::b, &Inputs::g, &Inputs::grad_y}) {
      Inputs in = draw<float, float>(c.shape);
      Values& values = in.*which;
      values[values.size() / 2 + 70] = sign * kNaN;
      check_case<float, float>(c, in);
      check_case<double, double>(c, in);
      values[values.size() / 2 + 70] = sign * kInfinity;
      check_case<float, float>(c, in, true);
      check_case<double, double>(c, in, true);
    }
  Inputs inactive = draw<float, float>(c.shape);
  inactive.a[7] = inactive.b[9] = -100;
  inactive.grad_y[7] = inactive.g[9] = kNaN;
  check_case<float, float>(c, inactive);
  // A key of −∞ is active with nothing but +∞, which gives NaN.
  Inputs masked = draw<float, float>(c.shape);
  masked.a[7] = masked.b[9] = masked.a[207] = -kInfinity;
  check_case<float, float>(c, masked);
  masked.b[203] = kInfinity;
  check_case<float, float>(c, masked, true);
  // Features that are −0 are added all the same, in another chunk too: the gradient of a then is 0 · NaN.
  Inputs zeros = draw<float, float>(c.shape);
  std::fill(zeros.a.begin(), zeros.a.end(), -0.5);
  for (double& key : zeros.b) key = 1 + std::round(4 * std::fabs(key)) / 4;
  std::fill(zeros.g.begin(), zeros.g.end(), -0.0);
  std::fill_n(zeros.grad_y.begin(), c.shape.positions, kNaN);
  check_case<float, float>(c, zeros);

  // An image has the same results alone, bit for bit.
  Case one = c, three = c;
  one.shape.images = 1, three.shape.images = 3;
  const Inputs all = draw<float, float>(three.shape);
  const auto image = [&](const Values& values, int n) {
    const int64_t size = static_cast<int64_t>(values.size()) / 3;
    return Values(values.begin() + n * size, values.begin() + (n + 1) * size);
  };
  const Outputs together = Run<float, float>(three, all, false).outputs();
  for (int n = 0; n < 3; ++n) {
    const Inputs in{image(all.a, n), image(all.b, n), image(all.g, n), image(all.grad_y, n)};
    const Outputs alone = Run<float, float>(one, in, false).outputs();
    CHECK(same_bits(alone.y, image(together.y, n)) && same_bits(alone.grad_g, image(together.grad_g, n)));
    CHECK(same_bits(alone.grad_a, image(together.grad_a, n)) && same_bits(alone.grad_b, image(together.grad_b, n)));
  }
  return check_result();
}
