// The products with pixels for features in rows of pixels (NCHW): out = epilogue(M·in) and dM += g·xᵀ, in blocks whose
// sums stay in registers. In an unnamed namespace, with few functions of the standard library: see instruction_set.h.
#pragma once

#include "common/simd.h"

namespace dgcn::graph_conv {
namespace {

// Sums of a block, in vectors: kBlockRows × kBlockColumns for M·in (nodes × pixels), kSquare × kSquare for g·xᵀ.
#if defined(__AVX512F__)                          // 32 registers
constexpr int kBlockRows = 8, kBlockColumns = 3;  // 24 sums, 3 of x, 1 of M
constexpr int kSquare = 5;                        // 25 sums, 5 of x, 1 of g
#elif defined(__AVX2__)                           // 16 registers
constexpr int kBlockRows = 6, kBlockColumns = 2;  // 12 sums, 2 of x, 1 of M
constexpr int kSquare = 3;                        // 9 sums, 3 of x, 1 of g
#else                                             // 16 registers, of which products without FMA need some
constexpr int kBlockRows = 4, kBlockColumns = 2;  // 8 sums, 2 of x
constexpr int kSquare = 3;
#endif

/// K rows of pixels, `stride` elements apart.
template <typename Element>
struct NodeRows {
  Element* data;  ///< null: absent
  int64_t stride;

  Element* at(int64_t row, int64_t pixel) const { return data + row * stride + pixel; }
  NodeRows from(int64_t row, int64_t pixel) const { return {data == nullptr ? data : at(row, pixel), stride}; }
  operator NodeRows<const Element>() const { return {data, stride}; }
};

/// What follows a product: + bias, ReLU, + residual.
template <typename T, typename Out>
struct Epilogue {
  const T* bias;  ///< [K] or null
  bool relu;
  NodeRows<const Out> residual;  ///< or absent
};

/// [0, count) in the fewest parts of at most `most`, which differ in size by 1 at most.
struct EvenSplit {
  int count, parts;

  EvenSplit(int count, int most) : count(count), parts((count + most - 1) / most) {}
  int begin(int part) const { return part * count / parts; }
  int size(int part) const { return begin(part + 1) - begin(part); }
};

/// Calls body(std::integral_constant<int, value>()), for a value in [1, most].
template <int most, typename Body>
inline void with_constant(int value, const Body& body) {
  if constexpr (most > 1)
    if (value < most) return with_constant<most - 1>(value, body);
  body(std::integral_constant<int, most>());
}

/// out = epilogue(M·in).
template <typename In, typename Out>
struct RowProduct {
  using T = typename Accumulation<In>::type;
  using S = Simd<T>;
  using Vector = typename S::Vector;

  static constexpr int kUnit = Pixels<In>::kUnit > Pixels<Out>::kUnit ? Pixels<In>::kUnit : Pixels<Out>::kUnit;
  static constexpr int kStep = kUnit / S::kLanes;  // vectors of a unit
  static constexpr int kColumns = (kBlockColumns + kStep - 1) / kStep * kStep;
  static constexpr int kRows = kBlockRows * kBlockColumns / kColumns;

  /// R rows of out, C vectors at a time. `factors` points at the first of these rows in the transpose of M, where the
  /// factors of all R rows at one k are neighbours.
  template <int R, int C>
  static __attribute__((noinline)) void block(const T* factors, int K, NodeRows<const In> in, NodeRows<Out> out,
                                              Epilogue<T, Out> epilogue, int64_t pixels) {
    for (int64_t pixel = 0; pixel < pixels; pixel += C * S::kLanes) {
      Vector sum[R][C] = {};
      const T* factor = factors;
      const In* x = in.data + pixel;
      for (int k = 0; k < K; ++k, factor += K, x += in.stride) {
        Vector value[C];
        for (int c = 0; c < C; ++c) value[c] = Pixels<In>::load(x, c);
        for (int r = 0; r < R; ++r)
          for (int c = 0; c < C; ++c) sum[r][c] += factor[r] * value[c];
      }

      if (epilogue.bias != nullptr)  // last: a large bias first would round off small products
        for (int r = 0; r < R; ++r)
          for (int c = 0; c < C; ++c) sum[r][c] += S::broadcast(epilogue.bias[r]);
      if (epilogue.relu)
        for (int r = 0; r < R; ++r)
          for (int c = 0; c < C; ++c) sum[r][c] = S::relu(sum[r][c]);
      if (epilogue.residual.data != nullptr)
        for (int r = 0; r < R; ++r)
          for (int c = 0; c < C; ++c) sum[r][c] += Pixels<Out>::load(epilogue.residual.at(r, pixel), c);
      for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; c += Pixels<Out>::kVectors)
          Pixels<Out>::store(out.at(r, pixel + c * S::kLanes), &sum[r][c]);
    }
  }

  /// `pixels` is a multiple of kUnit.
  static void run(const T* m_transposed, int K, NodeRows<const In> in, NodeRows<Out> out, int64_t pixels,
                  const Epilogue<T, Out>& epilogue) {
    constexpr int64_t kWidth = kColumns * S::kLanes;
    const int64_t whole = pixels / kWidth * kWidth;
    const EvenSplit rows(K, kRows);
    for (int part = 0; part < rows.parts; ++part) {
      const int row = rows.begin(part);
      const auto columns = [&](auto units, int64_t pixel, int64_t count) {
        const Epilogue<T, Out> here{epilogue.bias == nullptr ? nullptr : epilogue.bias + row, epilogue.relu,
                                    epilogue.residual.from(row, pixel)};
        with_constant<kRows>(rows.size(part), [&](auto size) {
          block<decltype(size)::value, decltype(units)::value * kStep>(m_transposed + row, K, in.from(0, pixel),
                                                                       out.from(row, pixel), here, count);
        });
      };
      if (whole > 0) columns(std::integral_constant<int, kColumns / kStep>(), 0, whole);
      if (const int units = static_cast<int>((pixels - whole) / kUnit); units > 0)
        with_constant<kColumns / kStep>(units, [&](auto units) { columns(units, whole, pixels - whole); });
    }
  }
};

/// dM += g·xᵀ over `pixels` pixels of x. `g` has its pixels in the order in which Pixels<X> loads those of x, and is
/// padded to `padded` pixels, a multiple of kUnit. If `pixels` is no such multiple, the last unit of g belongs to the
/// last kUnit pixels of x, and is zero for those that the unit before has as well.
template <typename X>
struct RowOuterProduct {
  using T = typename Accumulation<X>::type;
  using S = Simd<T>;
  using Vector = typename S::Vector;

  /// R rows of g and C rows of x.
  template <int R, int C>
  static __attribute__((noinline)) void block(NodeRows<const T> g, NodeRows<const X> x, int64_t pixels, int64_t padded,
                                              T* grad_m, int K) {
    constexpr int kUnit = Pixels<X>::kUnit;
    Vector sum[R][C] = {};
    for (int64_t pixel = 0; pixel < padded; pixel += kUnit) {
      const int64_t of_x = pixel < pixels - kUnit ? pixel : pixels - kUnit;
      for (int v = 0; v < Pixels<X>::kVectors; ++v) {
        Vector columns[C];
        for (int c = 0; c < C; ++c) columns[c] = Pixels<X>::load(x.at(c, of_x), v);
        for (int r = 0; r < R; ++r) {
          const Vector row = S::load(g.at(r, pixel + v * S::kLanes));
          for (int c = 0; c < C; ++c) sum[r][c] += row * columns[c];
        }
      }
    }
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c) grad_m[r * K + c] += S::sum(sum[r][c]);
  }

  static void run(NodeRows<const T> g, NodeRows<const X> x, int64_t pixels, int64_t padded, T* grad_m, int K) {
    const EvenSplit parts(K, kSquare);
    for (int i = 0; i < parts.parts; ++i)
      for (int j = 0; j < parts.parts; ++j)
        with_constant<kSquare>(parts.size(i), [&](auto rows) {
          with_constant<kSquare>(parts.size(j), [&](auto columns) {
            const int row = parts.begin(i), column = parts.begin(j);
            block<decltype(rows)::value, decltype(columns)::value>(g.from(row, 0), x.from(column, 0), pixels, padded,
                                                                   grad_m + row * K + column, K);
          });
        });
  }
};

}  // namespace
}  // namespace dgcn::graph_conv
