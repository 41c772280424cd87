// The CPU kernels of the graph convolution, in every instruction set that this machine has, against plain loops in
// float64. Features and M are small integers, whose sum is the same in every order: results are compared exactly. All
// memory that a kernel must not read is NaN: gaps between elements, results before they are computed, the kernels' own
// buffers. Arrays end where their allocations do, for AddressSanitizer.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <random>
#include <vector>

#include "check.h"
#include "common/simd.h"
#include "graph_conv/cpu/kernels.h"
#include "instruction_sets.h"

using namespace dgcn;
using namespace dgcn::graph_conv;
using Values = std::vector<double>;

constexpr int kUnwritten = 0xff;  // of every byte: NaN in every floating dtype

// Allocates the kernels' buffers, filled with NaN.
void* operator new(size_t size, std::align_val_t alignment) {
  void* memory = nullptr;
  if (posix_memalign(&memory, static_cast<size_t>(alignment), size) != 0) throw std::bad_alloc();
  return std::memset(memory, kUnwritten, size);
}
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }

static std::mt19937 generator(7);

static int pick(int count) { return static_cast<int>(generator() % static_cast<unsigned>(count)); }
static bool flip() { return pick(2) == 0; }
static double draw_integer() { return pick(17) - 8; }
static double draw_normal() { return std::normal_distribution<double>()(generator); }

template <typename Stored>
static double rounded(double value) {
  return widen(convert<Stored>(static_cast<typename Accumulation<Stored>::type>(value)));
}

// ---- Memory ---------------------------------------------------------------------------------------------------------

/// Either without padding, or with a guard element before and behind it.
template <typename T>
class Array {
 public:
  explicit Array(int64_t size)
      : guard_(pick(2)), bytes_((size + 2 * guard_) * sizeof(T)), memory_(new unsigned char[bytes_]) {
    std::memset(memory_.get(), kUnwritten, bytes_);
  }
  Array(int64_t size, double (*draw)()) : Array(size) {
    for (T& value : *this) value = static_cast<T>(draw());
  }

  T* begin() { return reinterpret_cast<T*>(memory_.get()) + guard_; }
  T* end() { return reinterpret_cast<T*>(memory_.get() + bytes_) - guard_; }
  Values values() { return Values(begin(), end()); }
  bool is_unwritten() const {
    return std::all_of(memory_.get(), memory_.get() + bytes_, [](unsigned char byte) { return byte == kUnwritten; });
  }
  /// Returns the values and fills them with NaN; checks that nothing else was written.
  Values take() {
    const Values values = this->values();
    std::memset(static_cast<void*>(begin()), kUnwritten, (end() - begin()) * sizeof(T));
    CHECK(is_unwritten());
    return values;
  }

 private:
  int64_t guard_, bytes_;
  std::unique_ptr<unsigned char[]> memory_;
};

enum Layout {
  kNchw,
  kChannelsLast,
  kRowWindow,           // of a larger NCHW
  kNodeSlice,           // of more nodes, channels_last
  kChannelsLastWindow,  // of larger images
  kTransposed,          // columns before rows
  kExpandedImages,      // one for the whole batch
  kExpandedPixels,      // the gradient of a sum over pixels
  kExpanded,            // the gradient of a sum
  kLayouts
};

/// A [B, K, H, W] tensor.
template <typename Stored>
class Tensor {
 public:
  Tensor(const MapShape& shape, Layout layout)
      : shape_(shape),
        strides_(strides(layout)),
        array_(1 + (shape.images - 1) * strides_.image_stride + (shape.nodes - 1) * strides_.node_stride +
               (shape.height - 1) * strides_.row_stride + (shape.width - 1) * strides_.column_stride) {}
  Tensor(const MapShape& shape, Layout layout, double (*draw)()) : Tensor(shape, layout) {
    for_each([&](Stored& element) { element = convert<Stored>(static_cast<T>(draw())); });
  }

  template <typename Element = const Stored>
  MapView<Element> features() {
    const auto& s = strides_;
    return {array_.begin(), s.image_stride, s.node_stride, s.row_stride, s.column_stride};
  }
  void put_nan() { array_.begin()[pick(static_cast<int>(array_.end() - array_.begin()))] = convert<Stored>(T(NAN)); }
  /// As [B, K, H·W].
  Values values() {
    Values out;
    for_each([&](Stored& element) { out.push_back(widen(element)); });
    return out;
  }
  /// Returns the values and fills them with NaN; checks that nothing else was written.
  Values take() {
    const Values values = this->values();
    for_each([](Stored& element) { std::memset(static_cast<void*>(&element), kUnwritten, sizeof(Stored)); });
    CHECK(array_.is_unwritten());
    return values;
  }

 private:
  using T = typename Accumulation<Stored>::type;

  MapView<Stored> strides(Layout layout) const {
    const int64_t K = shape_.nodes, H = shape_.height, W = shape_.width, N = H * W;
    switch (layout) {
      case kNchw:
        return {nullptr, K * N, N, W, 1};
      case kChannelsLast:
        return {nullptr, K * N, 1, K * W, K};
      case kRowWindow:
        return {nullptr, K * (N + 3 * H), N + 3 * H, W + 3, 1};
      case kNodeSlice:
        return {nullptr, (K + 1) * N, 1, (K + 1) * W, K + 1};
      case kChannelsLastWindow:
        return {nullptr, K * (W + 2) * (H + 1), 1, K * (W + 2), K};
      case kTransposed:
        return {nullptr, K * N, N, 1, H};
      case kExpandedImages:
        return {nullptr, 0, N, W, 1};
      case kExpandedPixels:
        return {nullptr, K, 1, 0, 0};
      default:
        return {};
    }
  }
  template <typename Body>
  void for_each(Body body) {
    const MapView<Stored> f = features<Stored>();
    for (int64_t b = 0; b < shape_.images; ++b)
      for (int k = 0; k < shape_.nodes; ++k)
        for (int64_t row = 0; row < shape_.height; ++row)
          for (int64_t column = 0; column < shape_.width; ++column)
            body(f.data[b * f.image_stride + k * f.node_stride + row * f.row_stride + column * f.column_stride]);
  }

  MapShape shape_;
  MapView<Stored> strides_;
  Array<Stored> array_;
};

// ---- Features: forward and backward ---------------------------------------------------------------------------------

/// Calls body(begin, end) over [0, count): once, or for one item at a time from the last to the first.
template <typename Body>
static void run_range(int64_t count, bool split, Body body) {
  if (!split) return body(0, count);
  for (int64_t i = count - 1; i >= 0; --i) body(i, i + 1);
}

struct Case {
  MapShape shape;
  int64_t tile_pixels;
  bool per_sample, relu, bias, residual, y_given, need_x, need_params;
  Layout x_layout, residual_layout, grad_y_layout, y_given_layout, y_layout, grad_x_layout;

  int64_t samples() const { return per_sample ? shape.images : 1; }
};

struct Results {
  Values y, grad_x;  // [B, K, N]
  Values grad_m;     // [samples, K·K + K]: dM and db
};

template <typename Stored>
struct Inputs {
  using T = typename Accumulation<Stored>::type;

  Inputs(const Case& c, double (*draw)())
      : x(c.shape, c.x_layout, draw),
        residual(c.shape, c.residual_layout, draw),
        grad_y(c.shape, c.grad_y_layout, draw),
        y_given(c.shape, c.y_given_layout, draw),
        m(c.samples() * c.shape.nodes * c.shape.nodes, draw),
        m_transposed(m.end() - m.begin()),
        bias(c.shape.nodes, draw) {
    for (int64_t e = 0, K = c.shape.nodes; e < c.samples() * K * K; ++e)
      m_transposed.begin()[e / (K * K) * K * K + e % K * K + e / K % K] = m.begin()[e];
  }

  Tensor<Stored> x, residual, grad_y, y_given;
  Array<T> m, m_transposed;  // [samples, K, K]
  Array<T> bias;             // [K]
};

template <typename Stored>
static Results expected(const Case& c, Inputs<Stored>& inputs) {
  const int64_t K = c.shape.nodes, N = c.shape.height * c.shape.width;
  const Values all_x = inputs.x.values(), residual = inputs.residual.values(), grad_y = inputs.grad_y.values(),
               y_given = inputs.y_given.values(), all_m = inputs.m.values(), bias = inputs.bias.values();
  Results out{Values(all_x.size()), Values(all_x.size()), Values(c.samples() * (K * K + K))};
  Values x(K), g(K), grad_x(K);
  for (int64_t image = 0; image < c.shape.images; ++image) {
    const int64_t sample = c.per_sample ? image : 0;
    const double* m = all_m.data() + sample * K * K;
    double *grad_m = out.grad_m.data() + sample * (K * K + K), *grad_bias = grad_m + K * K;
    for (int64_t pixel = 0; pixel < N; ++pixel) {
      const auto at = [&](int64_t k) { return (image * K + k) * N + pixel; };
      for (int k = 0; k < K; ++k) x[k] = all_x[at(k)];
      for (int j = 0; j < K; ++j) {
        double value = c.bias ? bias[j] : 0;
        for (int k = 0; k < K; ++k) value += m[j * K + k] * x[k];
        g[j] = c.relu && (c.y_given ? y_given[at(j)] : value) <= 0 ? 0 : grad_y[at(j)];
        if (c.relu && value < 0) value = 0;
        out.y[at(j)] = rounded<Stored>(c.residual ? value + residual[at(j)] : value);
      }
      std::fill(grad_x.begin(), grad_x.end(), 0);
      for (int j = 0; j < K; ++j) {
        grad_bias[j] += g[j];
        for (int k = 0; k < K; ++k) {
          grad_x[k] += m[j * K + k] * g[j];
          grad_m[j * K + k] += g[j] * x[k];
        }
      }
      for (int k = 0; k < K; ++k) out.grad_x[at(k)] = rounded<Stored>(grad_x[k]);
    }
  }
  return out;
}

template <typename Stored>
static Results run(const Case& c, Inputs<Stored>& in, const GraphConvKernels<Stored>& kernels, bool split) {
  using T = typename Accumulation<Stored>::type;
  const PixelTiling tiling(c.shape, c.per_sample, c.tile_pixels);
  const int64_t size = c.shape.nodes * (c.shape.nodes + 1);
  Tensor<Stored> y(c.shape, c.y_layout), grad_x(c.shape, c.grad_x_layout);
  Array<T> partial(tiling.chunks() * size);
  const T* bias = c.bias ? in.bias.begin() : nullptr;
  MapView<const Stored> residual{}, y_given{};
  MapView<Stored> to_grad_x{};
  if (c.residual) residual = in.residual.features();
  if (c.y_given) y_given = in.y_given.features();
  if (c.need_x) to_grad_x = grad_x.template features<Stored>();
  const CpuForwardArguments<Stored> forward{
      c.shape,      in.x.features(),         residual, y.template features<Stored>(),
      in.m.begin(), in.m_transposed.begin(), bias,     c.relu};
  const CpuBackwardArguments<Stored> backward{c.shape,   in.grad_y.features(), in.x.features(),         y_given,
                                              to_grad_x, in.m.begin(),         in.m_transposed.begin(), bias,
                                              c.relu,    c.need_params,        partial.begin()};
  run_range(tiling.tiles(), split, [&](int64_t begin, int64_t end) { kernels.forward(forward, tiling, begin, end); });
  run_range(tiling.chunks(), split,
            [&](int64_t begin, int64_t end) { kernels.backward(backward, tiling, begin, end); });

  Results out{y.take(), grad_x.take(), Values(c.samples() * size)};
  const Values chunks = partial.take();
  for (size_t e = 0; e < chunks.size(); ++e)
    out.grad_m[e / size / tiling.chunks_per_sample() * size + e % size] += chunks[e];
  return out;
}

static bool same(const Values& a, const Values& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); });
}

using KernelSets = std::vector<NamedKernels<GraphConvKernelTable>>;

template <typename Stored>
static void check_case(const Case& c, GraphConvKernels<Stored> GraphConvKernelTable::* of_type,
                       const KernelSets& sets) {
  Inputs<Stored> integers(c, draw_integer), reals(c, draw_normal);
  Tensor<Stored>* const tensors[] = {&integers.x, &integers.residual, &integers.grad_y, &integers.y_given};
  if (pick(3) == 0) tensors[pick(4)]->put_nan();  // which must not affect other pixels
  const Results want = expected(c, integers);
  for (const auto& set : sets) {
    const GraphConvKernels<Stored>& kernels = set.kernels.*of_type;
    const Results got = run(c, integers, kernels, flip()), whole = run(c, reals, kernels, false),
                  split = run(c, reals, kernels, true);
    const int before = check::failures();
    CHECK(same(got.y, want.y));
    CHECK(!c.need_x || same(got.grad_x, want.grad_x));
    CHECK(!c.need_params || same(got.grad_m, want.grad_m));
    CHECK(same(whole.y, split.y) && same(whole.grad_x, split.grad_x) && same(whole.grad_m, split.grad_m));
    if (check::failures() > before)
      std::fprintf(stderr, "  in %s: %d bytes, B=%d K=%d H=%d W=%d tile=%d x_layout=%d relu=%d y_given=%d\n", set.name,
                   int(sizeof(Stored)), int(c.shape.images), c.shape.nodes, int(c.shape.height), int(c.shape.width),
                   int(c.tile_pixels), c.x_layout, c.relu, c.y_given);
  }
}

/// Random options and a random shape: many pixels and few nodes, or few pixels and many nodes.
static Case draw_case(int K) {
  constexpr int kHeights[] = {1, 1, 2, 3, 5, 7, 13, 33, 47}, kWidths[] = {1, 3, 5, 7, 8, 16, 17, 31, 64, 65};
  Case c{};
  do c.shape = {1 + pick(5), K, kHeights[pick(9)], kWidths[pick(10)]};
  while (c.shape.images * c.shape.height * c.shape.width * K * K > 3'000'000);
  c.tile_pixels = (1 + pick(5)) * kTileUnit;
  for (bool* option : {&c.per_sample, &c.relu, &c.bias, &c.residual, &c.y_given, &c.need_x, &c.need_params})
    *option = flip();
  // Mostly one layout for all; results get none with shared memory.
  const Layout usual = static_cast<Layout>(pick(flip() ? 2 : kExpandedImages));
  for (Layout* layout : {&c.x_layout, &c.residual_layout, &c.grad_y_layout, &c.y_given_layout})
    *layout = pick(8) == 0 ? static_cast<Layout>(pick(kLayouts)) : usual;
  for (Layout* layout : {&c.y_layout, &c.grad_x_layout})
    *layout = pick(8) == 0 ? static_cast<Layout>(pick(kExpandedImages)) : usual;
  return c;
}

// ---- Matrices: compute_matrices and parameter_gradients -------------------------------------------------------------

static Values transposed(const Values& a, int K) {
  Values out(K * K);
  for (int e = 0; e < K * K; ++e) out[e % K * K + e / K] = a[e];
  return out;
}

static Values product(const Values& a, const Values& b, int K) {
  Values out(K * K);
  for (int i = 0; i < K; ++i)
    for (int t = 0; t < K; ++t)
      for (int j = 0; j < K; ++j) out[i * K + j] += a[i * K + t] * b[t * K + j];
  return out;
}

/// ‖got − want‖∞ against `tolerance` of the largest value, for one sample of `got`; NaN fails.
static void check_near(const Values& got, int64_t first, const Values& want, double tolerance) {
  double scale = 1e-30, error = 0;
  for (size_t e = 0; e < want.size(); ++e) {
    scale = std::max(scale, std::fabs(want[e]));
    error = std::isnan(got[first + e]) ? INFINITY : std::max(error, std::fabs(got[first + e] - want[e]));
  }
  CHECK_NEAR(error / scale, 0, tolerance);
}

template <typename Stored>
static void check_matrices(int K, const GraphConvKernels<Stored>& kernels, bool split) {
  using T = typename Accumulation<Stored>::type;
  constexpr int kSamples = 3, kChunks = 2;
  const int size = K * K, partial_size = size + K;
  Array<T> edge_weight(size, draw_normal), adjacency(size, draw_normal), weight(size, draw_normal),
      partial(kSamples * kChunks * partial_size, draw_normal);
  for (T& value : adjacency) value = std::clamp(value, T(0), T(1));
  const int64_t seed = pick(1 << 30);
  const uint32_t first_sample = pick(1 << 30);
  const GraphMode mode{flip(), flip()};
  const bool has_weight = flip(), random = flip();
  const GraphParams<T> params{edge_weight.begin(),
                              adjacency.begin(),
                              has_weight ? weight.begin() : nullptr,
                              nullptr,
                              random ? &seed : nullptr,
                              first_sample,
                              K,
                              mode};

  Array<T> effective(kSamples * size), s(kSamples * size), s_transposed(kSamples * size), m(kSamples * size),
      m_transposed(kSamples * size);
  const Values sums = partial.values();
  const SampleMatrices<T> mixing{effective.begin(), s.begin(), s_transposed.begin(), m.begin(), m_transposed.begin()};
  run_range(kSamples, split, [&](int64_t begin, int64_t end) { kernels.compute_matrices(params, mixing, begin, end); });
  Values got[] = {effective.values(), s.values(), s_transposed.values(), m.values(), m_transposed.values()};
  run_range(kSamples, split, [&](int64_t begin, int64_t end) {
    kernels.parameter_gradients(params, mixing, partial.begin(), kChunks, begin, end);
  });
  const Values grad_edge_weight = effective.take(), grad_weight = m.take(), grad_bias = partial.take();
  for (Array<T>* rest : {&s, &s_transposed, &m_transposed}) rest->take();

  const double tolerance = sizeof(T) == 8 ? 1e-12 : 1e-4;
  const Values w_d = edge_weight.values(), a = adjacency.values(), w = weight.values();
  GraphParams<double> exact{w_d.data(), a.data(), nullptr, nullptr, params.seed, 0, K, mode};
  for (int sample = 0; sample < kSamples; ++sample) {
    Values drawn(size), softmax(size), grad_m(partial_size), want(size);
    effective_adjacency(drawn.data(), exact, first_sample + sample, 0, 1);
    row_softmax(softmax.data(), drawn.data(), exact, 0, 1);
    const Values p = mode.target ? softmax : transposed(softmax, K), mixed = has_weight ? product(p, w, K) : p;
    const Values stages[] = {drawn, softmax, transposed(softmax, K), mixed, transposed(mixed, K)};
    for (int i = 0; i < 5; ++i) check_near(got[i], sample * size, stages[i], tolerance);

    const int64_t first = sample * kChunks * partial_size;
    for (int e = 0; e < kChunks * partial_size; ++e) grad_m[e % partial_size] += sums[first + e];
    check_near(grad_bias, first + size, Values(grad_m.begin() + size, grad_m.end()), tolerance);
    if (has_weight) check_near(grad_weight, sample * size, product(transposed(p, K), grad_m, K), tolerance);
    const Values grad_p = has_weight ? product(grad_m, transposed(w, K), K) : grad_m;
    edge_weight_gradient(want.data(), softmax.data(), grad_p.data(), drawn.data(), K, mode, 0, 1);
    check_near(grad_edge_weight, sample * size, want, tolerance);
  }
}

// ---- All cases ------------------------------------------------------------------------------------------------------

template <typename Stored>
static void check_type(GraphConvKernels<Stored> GraphConvKernelTable::* of_type, const KernelSets& sets) {
  for (const int K : {1, 2, 3, 5, 7, 8, 14, 15, 16, 17, 18, 19, 24, 31, 33, 48, 133}) {
    for (int i = 0; i < 10; ++i) check_case(draw_case(K), of_type, sets);
    for (const auto& set : sets)
      for (int i = 0; i < (K > 48 ? 1 : 6); ++i) check_matrices(K, set.kernels.*of_type, i % 2 == 0);
  }
  for (const Layout layout : {kNchw, kChannelsLast}) {  // several tiles a chunk
    Case c{{5, 3, 47, 65}, kTileUnit, true, true, true, true, false, true, true, {}, {}, {}, {}, {}, {}};
    c.x_layout = c.residual_layout = c.grad_y_layout = c.y_layout = c.grad_x_layout = layout;
    check_case(c, of_type, sets);
  }
}

int main() {
  const KernelSets sets = kernels_of_this_machine<GraphConvKernelTable>();
  check_type(&GraphConvKernelTable::float64, sets);
  check_type(&GraphConvKernelTable::float32, sets);
  check_type(&GraphConvKernelTable::bfloat16, sets);
  check_type(&GraphConvKernelTable::float16, sets);
  for (const MapShape& empty : {MapShape{0, 17, 5, 5}, MapShape{2, 17, 0, 5}})
    CHECK(PixelTiling(empty, true, kTileUnit).tiles() == 0 && PixelTiling(empty, false, kTileUnit).chunks() == 0);
  return check_result();
}
