// The products of pixel_rows.h for channels_last features: the K nodes of a pixel are neighbours, so the lanes of a
// vector are nodes instead of pixels. Transposing the features into rows takes 17 to 70 % longer (float32, K = 14 to
// 18).
//
// If K is not a multiple of the vector length, the last vector overlaps the one before it. If a single node is left
// over, it is computed as a dot product per pixel instead: at K = 17 with AVX-512, forward takes 14 % less time.
#pragma once

#include "graph_conv/cpu/pixel_rows.h"

namespace dgcn::graph_conv {
namespace {

/// How the K nodes of a pixel are divided into vectors of kLanes.
template <int kLanes>
struct NodeVectors {
  int K, whole, rest;

  explicit NodeVectors(int K) : K(K), whole(K / kLanes), rest(K % kLanes) {}
  /// Counts the last vector too, which overlaps the one before it or, if K < kLanes, reaches into the next pixel.
  int count() const { return whole + (rest > 0); }
  int first_node(int vector) const { return vector < whole || whole == 0 ? vector * kLanes : K - kLanes; }
  /// The lanes [first_lane, end_lane) belong to this vector alone: the others repeat the vector before, or are those of
  /// the next pixel.
  int first_lane(int vector) const { return vector < whole || whole == 0 ? 0 : kLanes - rest; }
  int end_lane() const { return whole == 0 ? rest : kLanes; }
};

/// The matrix of a product and its bias, in aligned vectors padded with zeros.
template <typename T>
class NodeMatrix {
 public:
  static constexpr int kLanes = Simd<T>::kLanes;

  explicit NodeMatrix(int K) : nodes_(K), stride_(nodes_.count() * kLanes), elements_((K + 1) * stride_) {}

  /// m [node of in, node of out]; `bias` is [K] or null.
  void fill(const T* m, const T* m_transposed, const T* bias) {
    if (m_transposed == m_transposed_) return;  // the same sample as before
    m_transposed_ = m_transposed;
    bias_ = bias;
    memset(elements_.data(), 0, (nodes_.K + 1) * stride_ * sizeof(T));
    for (int vector = 0; vector < nodes_.count(); ++vector) {
      const int node = nodes_.first_node(vector), end = nodes_.end_lane();
      for (int k = 0; k < nodes_.K; ++k) memcpy(row(k, vector), m + k * nodes_.K + node, end * sizeof(T));
      if (bias != nullptr) memcpy(row(nodes_.K, vector), bias + node, end * sizeof(T));
    }
  }

  const NodeVectors<kLanes>& nodes() const { return nodes_; }
  int64_t stride() const { return stride_; }
  /// One vector of a row; row K is the bias.
  T* row(int k, int vector) const { return elements_.data() + k * stride_ + vector * kLanes; }
  /// The factors of one node of `out`.
  const T* column(int node) const { return m_transposed_ + node * nodes_.K; }
  T bias(int node) const { return bias_ == nullptr ? T(0) : bias_[node]; }

 private:
  NodeVectors<kLanes> nodes_;
  int64_t stride_;
  AlignedArray<T> elements_;
  const T *m_transposed_ = nullptr, *bias_ = nullptr;
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
    for (int k = 0; k < K; ++k, row += a.m.stride()) {
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) sum[p][c] += in[p * K + k] * S::load(row + c * kLanes);
    }
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        Vector value = sum[p][c] + S::load(bias + c * kLanes);
        if (a.relu) value = S::relu(value);
        if (residual != nullptr) value += S::load(residual + p * K + c * kLanes);
        S::store(out + p * K + c * kLanes, value);
      }
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

  /// Whether dots() computes the last node. Per pixel it takes whole + 6 operations on vectors; an overlapping vector
  /// takes K.
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
      // A vector reaches beyond its pixel: its store overwrites the next pixels, which are stored later. At the end of
      // `out` there are none, so the last pixels are stored node by node.
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
  static constexpr int64_t kPiece = 32;  // pixels of a partial sum: its rounding error grows with their number
  static constexpr int kLatency = 4;     // cycles of an addition: with so many sums, none waits for the one before

  /// sums[r] [kLanes] += Σ over pixels of rows[r] times the kLanes nodes at `columns`, for the R nodes at `rows`.
  template <int R>
  static void block(const T* rows, const T* columns, int64_t pixels, int K, T* sums) {
    constexpr int kTurns = (kLatency + R - 1) / R;  // pixels in turn: at least kLatency sums
    Vector sum[kTurns][R] = {};
    const auto add = [&](int turn) __attribute__((always_inline)) {
      const Vector column = S::load(columns + turn * K);
#pragma GCC unroll 64
      for (int r = 0; r < R; ++r) sum[turn][r] += rows[turn * K + r] * column;
    };
    int64_t pixel = 0;
    for (; pixel + kTurns <= pixels; pixel += kTurns, rows += kTurns * K, columns += kTurns * K)
#pragma GCC unroll 64
      for (int turn = 0; turn < kTurns; ++turn) add(turn);
    for (; pixel < pixels; ++pixel, rows += K, columns += K) add(0);
#pragma GCC unroll 64
    for (int r = 0; r < R; ++r) {
      Vector total = S::load(sums + r * kLanes);
#pragma GCC unroll 64
      for (int turn = 0; turn < kTurns; ++turn) total += sum[turn][r];
      S::store(sums + r * kLanes, total);
    }
  }

  /// Calls add(row, column, Σ over pixels of their product) for the `row_count` nodes from `rows` on and the nodes of
  /// the first `vectors` vectors of `columns`.
  template <typename Add>
  static void products(const T* rows, int row_count, const T* columns, int vectors, int64_t pixels, int K, Add add) {
    const NodeVectors<kLanes> nodes(K);
    const EvenSplit parts(row_count, kRows);
    for (int vector = 0; vector < vectors; ++vector)
      for (int part = 0; part < parts.parts; ++part) {
        const int row = parts.begin(part), count = parts.size(part), column = nodes.first_node(vector);
        T sums[kRows * kLanes] = {};
        void (*block_of_size)(const T*, const T*, int64_t, int, T*) = nullptr;
        with_constant<kRows>(count, [&](auto size) { block_of_size = block<decltype(size)::value>; });
        for (int64_t piece = 0; piece < pixels; piece += kPiece)
          block_of_size(rows + piece * K + row, columns + piece * K + column,
                        pixels - piece < kPiece ? pixels - piece : kPiece, K, sums);
        for (int r = 0; r < count; ++r)
          for (int lane = nodes.first_lane(vector); lane < nodes.end_lane(); ++lane)
            add(row + r, column + lane, sums[r * kLanes + lane]);
      }
  }

  static void run(const T* g, const T* x, int64_t pixels, int K, T* grad_m, double* grad_bias) {
    const NodeVectors<kLanes> nodes(K);
    const int64_t total = pixels * K;
    for (; nodes.whole == 0 && pixels > 0 && (pixels - 1) * K + kLanes > total; --pixels) {
      // A vector at this pixel would read beyond the features: its products are added one by one.
      const int64_t last = (pixels - 1) * K;
      for (int r = 0; r < K; ++r)
        for (int c = 0; c < K; ++c) grad_m[r * K + c] += g[last + r] * x[last + c];
      for (int r = 0; r < K; ++r) grad_bias[r] += g[last + r];
    }
    products(g, K, x, nodes.whole == 0 ? 1 : nodes.whole, pixels, K,
             [&](int row, int column, T sum) { grad_m[row * K + column] += sum; });
    if (nodes.whole > 0)  // the columns of dM that are left over are few: computed as rows of dMᵀ
      products(x + K - nodes.rest, nodes.rest, g, nodes.count(), pixels, K,
               [&](int column, int row, T sum) { grad_m[row * K + K - nodes.rest + column] += sum; });
    for (int64_t piece = 0; piece < pixels; piece += kPiece)
      for (int vector = 0; vector < nodes.count(); ++vector) {
        const int node = nodes.first_node(vector);
        const int64_t end = pixels - piece < kPiece ? pixels : piece + kPiece;
        Vector sum[kLatency] = {};
        int64_t pixel = piece;
        for (; pixel + kLatency <= end; pixel += kLatency)
#pragma GCC unroll 4
          for (int turn = 0; turn < kLatency; ++turn) sum[turn] += S::load(g + (pixel + turn) * K + node);
        for (; pixel < end; ++pixel) sum[0] += S::load(g + pixel * K + node);
        const Vector total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        for (int lane = nodes.first_lane(vector); lane < nodes.end_lane(); ++lane)
          grad_bias[node + lane] += total[lane];
      }
  }
};

}  // namespace
}  // namespace dgcn::graph_conv
