// The products of pixel_rows.h for channels_last features: the K nodes of a pixel are neighbours, so the lanes of a
// vector are nodes instead of pixels. Transposing the features into rows takes 17 to 70 % longer (float32, K = 14 to 18).
//
// If K is not a multiple of the vector length, the last vector overlaps the one before it. A single node left over is a
// dot product per pixel instead: at K = 17 with AVX-512, forward takes 14 % less time.
#pragma once

#include <new>

#include "graph_conv/cpu/pixel_rows.h"

namespace dgcn::graph_conv {
namespace {

/// Calls body(0), ..., body(count - 1), unrolled by the front end: GCC's optimiser unrolls too late to keep an array that
/// they index in registers.
template <int count, typename Body>
inline __attribute__((always_inline)) void repeat(const Body& body) {
#pragma GCC unroll 64
  for (int i = 0; i < count; ++i) body(i);
}

/// How the K nodes of a pixel are divided into vectors of kLanes.
template <int kLanes>
struct NodeVectors {
  int K, whole, rest;

  explicit NodeVectors(int K) : K(K), whole(K / kLanes), rest(K % kLanes) {}
  /// With the last vector, which overlaps the one before it, or is longer than a pixel if K < kLanes.
  int count() const { return whole + (rest > 0); }
  int first_node(int vector) const { return vector < whole || whole == 0 ? vector * kLanes : K - kLanes; }
  /// The lanes [first_lane, end_lane) that no other vector, and no other pixel, has as well.
  int first_lane(int vector) const { return vector < whole || whole == 0 ? 0 : kLanes - rest; }
  int end_lane() const { return whole == 0 ? rest : kLanes; }
};

/// A matrix [K, K] from the nodes of `in` to those of `out`, and a bias, in aligned vectors padded with zeros.
template <typename T>
class NodeMatrix {
 public:
  static constexpr int kLanes = Simd<T>::kLanes;

  explicit NodeMatrix(int K)
      : nodes_(K), stride_(nodes_.count() * kLanes), data_(static_cast<T*>(operator new(size(), kCacheLine))) {}
  ~NodeMatrix() { operator delete(data_, kCacheLine); }
  NodeMatrix(const NodeMatrix&) = delete;
  NodeMatrix& operator=(const NodeMatrix&) = delete;

  /// `bias` is [K] or null.
  void fill(const T* m, const T* m_transposed, const T* bias) {
    if (m_transposed == m_transposed_) return;  // the same sample as before
    m_transposed_ = m_transposed;
    memset(data_, 0, size());
    for (int vector = 0; vector < nodes_.count(); ++vector) {
      const int node = nodes_.first_node(vector), end = nodes_.end_lane();
      for (int k = 0; k < nodes_.K; ++k) memcpy(row(k, vector), m + k * nodes_.K + node, end * sizeof(T));
      if (bias != nullptr) memcpy(row(nodes_.K, vector), bias + node, end * sizeof(T));
    }
  }

  const NodeVectors<kLanes>& nodes() const { return nodes_; }
  int64_t stride() const { return stride_; }
  /// One vector of a row; row K is the bias.
  T* row(int k, int vector) const { return data_ + k * stride_ + vector * kLanes; }
  /// The factors of one node of `out`.
  const T* column(int node) const { return m_transposed_ + node * nodes_.K; }
  T bias(int node) const {
    const int vector = node / kLanes < nodes_.whole ? node / kLanes : nodes_.count() - 1;
    return row(nodes_.K, vector)[node - nodes_.first_node(vector)];
  }

 private:
  static constexpr std::align_val_t kCacheLine{64};
  size_t size() const { return (nodes_.K + 1) * stride_ * sizeof(T); }

  NodeVectors<kLanes> nodes_;
  int64_t stride_;
  T* data_;
  const T* m_transposed_ = nullptr;
};

/// out = epilogue(in·M + bias) for each pixel.
template <typename T>
struct ChannelsLastProduct {
  using S = Simd<T>;
  using Vector = typename S::Vector;
  static constexpr int kLanes = S::kLanes, kPixels = 8, kColumns = 3;

  struct Arguments {
    const NodeMatrix<T>& m;
    bool relu;
    const T* residual;  ///< [pixels, K] or null

    const NodeVectors<kLanes>& nodes() const { return m.nodes(); }
  };

  /// P pixels, and C vectors of nodes from the one at `out` on.
  template <int P, int C>
  static void block(const Arguments& a, int vector, const T* in, T* out, const T* residual) {
    const int K = a.nodes().K;
    const T *bias = a.m.row(K, vector), *row = a.m.row(0, vector);
    Vector sum[P][C] = {};
    const auto each = [&](const auto& body) __attribute__((always_inline)) {
      repeat<P>([&](int p) __attribute__((always_inline)) {
        repeat<C>([&](int c) __attribute__((always_inline)) { body(sum[p][c], p, c); });
      });
    };
    for (int k = 0; k < K; ++k, row += a.m.stride())
      each([&](Vector& to, int p, int c)
               __attribute__((always_inline)) { to += in[p * K + k] * S::load(row + c * kLanes); });
    each([&](Vector& to, int, int c) __attribute__((always_inline)) { to += S::load(bias + c * kLanes); });
    if (a.relu) each([](Vector& to, int, int) __attribute__((always_inline)) { to = S::relu(to); });
    if (residual != nullptr)
      each([&](Vector& to, int p, int c)
               __attribute__((always_inline)) { to += S::load(residual + p * K + c * kLanes); });
    each([&](const Vector& from, int p, int c)
             __attribute__((always_inline)) { S::store(out + p * K + c * kLanes, from); });
  }

  /// One node of one pixel.
  static void single(const Arguments& a, int node, const T* in, T* out, const T* residual) {
    const T* column = a.m.column(node);
    T sum = 0;
    for (int k = 0; k < a.nodes().K; ++k) sum += in[k] * column[k];
    sum += a.m.bias(node);
    if (a.relu) sum = T(0) > sum ? T(0) : sum;  // keeps NaN
    out[node] = residual == nullptr ? sum : sum + residual[node];
  }

  /// The last node of `pixels` pixels, as dot products with its factors. In half vectors: summing the lanes of a vector
  /// costs more than twice as much.
  static void dots(const Arguments& a, const T* in, T* out, const T* residual, int64_t pixels) {
    using H = Simd<T, (kVectorBytes > 16 ? kVectorBytes / 2 : 16)>;
    const int K = a.nodes().K, node = K - 1, whole = K / H::kLanes * H::kLanes;
    const T* column = a.m.column(node);
    const T bias = a.m.bias(node);
    int64_t pixel = 0;
    for (; pixel + H::kLanes <= pixels; pixel += H::kLanes) {
      const T* x = in + pixel * K;
      T sums[H::kLanes];
      H::store(sums, H::sums([&](int p) __attribute__((always_inline)) {
                 typename H::Vector sum = H::load(x + p * K) * H::load(column);
                 for (int k = H::kLanes; k < whole; k += H::kLanes) sum += H::load(x + p * K + k) * H::load(column + k);
                 return sum;
               }));
      for (int k = whole; k < K; ++k)
        for (int p = 0; p < H::kLanes; ++p) sums[p] += x[p * K + k] * column[k];
      for (int p = 0; p < H::kLanes; ++p) sums[p] += bias;
      if (a.relu)
        for (int p = 0; p < H::kLanes; ++p) sums[p] = T(0) > sums[p] ? T(0) : sums[p];  // keeps NaN
      T* y = out + pixel * K + node;
      if (residual != nullptr)
        for (int p = 0; p < H::kLanes; ++p) sums[p] += residual[(pixel + p) * K + node];
      for (int p = 0; p < H::kLanes; ++p) y[p * K] = sums[p];
    }
    for (; pixel < pixels; ++pixel)
      single(a, node, in + pixel * K, out + pixel * K, residual == nullptr ? nullptr : residual + pixel * K);
  }

  /// Whether the last node is computed by dots(): per pixel, these take whole + 6 operations on vectors, an overlapping
  /// vector K.
  static bool has_dots(const NodeVectors<kLanes>& nodes) { return nodes.rest == 1 && nodes.whole + 6 < nodes.K; }

  template <int P>
  static void vectors(const Arguments& a, const T* in, T* out, const T* residual) {
    const auto run = [&](auto size, int vector) {
      const int node = a.nodes().first_node(vector);
      block<P, decltype(size)::value>(a, vector, in, out + node, residual == nullptr ? nullptr : residual + node);
    };
    const int whole = a.nodes().whole, count = has_dots(a.nodes()) ? whole : a.nodes().count();
    int vector = 0;
    for (; vector + kColumns <= whole; vector += kColumns) run(std::integral_constant<int, kColumns>{}, vector);
    for (; vector + 2 <= whole; vector += 2) run(std::integral_constant<int, 2>{}, vector);
    for (; vector < count; ++vector) run(std::integral_constant<int, 1>{}, vector);
  }

  static void run(const Arguments& a, const T* in, T* out, int64_t pixels) {
    const int K = a.nodes().K;
    const auto residual = [&](int64_t pixel) { return a.residual == nullptr ? nullptr : a.residual + pixel * K; };
    if (a.nodes().whole == 0) {
      // A store also overwrites nodes of the next pixels, which are stored later. The last pixels have none behind them.
      int64_t pixel = 0;
      for (; (pixels - pixel - kPixels) * K >= kLanes - K; pixel += kPixels)
        vectors<kPixels>(a, in + pixel * K, out + pixel * K, residual(pixel));
      for (; pixel < pixels; ++pixel)
        for (int node = 0; node < K; ++node) single(a, node, in + pixel * K, out + pixel * K, residual(pixel));
      return;
    }
    constexpr int64_t kGroup = 128;  // pixels that are still in L1 when dots() reads them
    for (int64_t group = 0; group < pixels; group += kGroup) {
      const int64_t end = group + kGroup < pixels ? group + kGroup : pixels;
      int64_t pixel = group;
      for (; pixel + kPixels <= end; pixel += kPixels)
        vectors<kPixels>(a, in + pixel * K, out + pixel * K, residual(pixel));
      for (; pixel < end; ++pixel) vectors<1>(a, in + pixel * K, out + pixel * K, residual(pixel));
      if (has_dots(a.nodes())) dots(a, in + group * K, out + group * K, residual(group), end - group);
    }
  }
};

/// dM += Σ over pixels of g·xᵀ, and db += Σ g.
template <typename T>
struct ChannelsLastOuterProduct {
  using S = Simd<T>;
  using Vector = typename S::Vector;
  static constexpr int kLanes = S::kLanes, kRows = kBlockRows * kBlockColumns;
  static constexpr int64_t kPiece = 32;  // pixels: rounding errors grow with the number of terms added one by one

  /// sums[r] [kLanes] += Σ over pixels of rows[r] times the kLanes nodes at `columns`, for the R nodes at `rows`; with
  /// kColumnSums, column_sums [kLanes] = Σ columns.
  template <int R, bool kColumnSums>
  static void block(const T* rows, const T* columns, int64_t pixels, int K, T* sums, [[maybe_unused]] T* column_sums) {
    constexpr int kSums = R + kColumnSums, kLatency = 4;
    constexpr int kTurns = (kLatency + kSums - 1) / kSums;  // enough sums that no addition waits for the one before
    Vector sum[kTurns][kSums] = {};
    const auto add = [&](int turn) __attribute__((always_inline)) {
      const Vector column = S::load(columns + turn * K);
      repeat<R>([&](int r) __attribute__((always_inline)) { sum[turn][r] += rows[turn * K + r] * column; });
      if constexpr (kColumnSums) sum[turn][R] += column;
    };
    int64_t pixel = 0;
    for (; pixel + kTurns <= pixels; pixel += kTurns, rows += kTurns * K, columns += kTurns * K) repeat<kTurns>(add);
    for (; pixel < pixels; ++pixel, rows += K, columns += K) add(0);
    repeat<kSums>([&](int r) __attribute__((always_inline)) {
      repeat<kTurns - 1>([&](int turn) __attribute__((always_inline)) { sum[0][r] += sum[turn + 1][r]; });
      if (r < R)
        S::store(sums + r * kLanes, S::load(sums + r * kLanes) + sum[0][r]);
      else
        S::store(column_sums, sum[0][r]);
    });
  }

  /// Calls add(row, column, Σ over pixels of their product) for the `row_count` nodes from `rows` on and the nodes of the
  /// first `vectors` vectors of `columns`. With kColumnSums, row_count < kRows, and column_sums [K] += Σ columns.
  template <bool kColumnSums, typename Add>
  static void products(const T* rows, int row_count, const T* columns, int vectors, int64_t pixels, int K,
                       double* column_sums, Add add) {
    const NodeVectors<kLanes> nodes(K);
    const EvenSplit parts(row_count > 0 ? row_count : 1, kRows);
    for (int vector = 0; vector < vectors; ++vector)
      for (int part = 0; part < parts.parts; ++part) {
        const int row = kColumnSums ? 0 : parts.begin(part), count = kColumnSums ? row_count : parts.size(part);
        const int column = nodes.first_node(vector);
        T sums[kRows * kLanes] = {}, sums_of_piece[kLanes];
        void (*block_of_size)(const T*, const T*, int64_t, int, T*, T*) = nullptr;
        with_constant<kRows>(count + kColumnSums, [&](auto size) {
          block_of_size = block<decltype(size)::value - kColumnSums, kColumnSums>;
        });
        for (int64_t piece = 0; piece < pixels; piece += kPiece) {
          const int64_t size = pixels - piece < kPiece ? pixels - piece : kPiece;
          block_of_size(rows + piece * K + row, columns + piece * K + column, size, K, sums, sums_of_piece);
          if constexpr (kColumnSums)
            for (int lane = nodes.first_lane(vector); lane < nodes.end_lane(); ++lane)
              column_sums[column + lane] += sums_of_piece[lane];
        }
        for (int r = 0; r < count; ++r)
          for (int lane = nodes.first_lane(vector); lane < nodes.end_lane(); ++lane)
            add(row + r, column + lane, sums[r * kLanes + lane]);
      }
  }

  static void run(const T* g, const T* x, int64_t pixels, int K, T* grad_m, double* grad_bias) {
    const NodeVectors<kLanes> nodes(K);
    const int64_t total = pixels * K;
    for (; nodes.whole == 0 && pixels > 0 && (pixels - 1) * K + kLanes > total; --pixels) {
      // A vector at the last pixel would end beyond the features: one by one.
      const int64_t last = (pixels - 1) * K;
      for (int r = 0; r < K; ++r)
        for (int c = 0; c < K; ++c) grad_m[r * K + c] += g[last + r] * x[last + c];
      for (int r = 0; r < K; ++r) grad_bias[r] += g[last + r];
    }
    products<false>(g, K, x, nodes.whole == 0 ? 1 : nodes.whole, pixels, K, nullptr,
                    [&](int row, int column, T sum) { grad_m[row * K + column] += sum; });
    // The columns of dM that are left over are few: computed as rows of dMᵀ, along with db.
    const int rest = nodes.whole == 0 ? 0 : nodes.rest;
    products<true>(x + K - rest, rest, g, nodes.count(), pixels, K, grad_bias,
                   [&](int column, int row, T sum) { grad_m[row * K + K - rest + column] += sum; });
  }
};

}  // namespace
}  // namespace dgcn::graph_conv
