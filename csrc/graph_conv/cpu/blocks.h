// The products that meet the pixels on the CPU, in blocks that stay in registers: out = epilogue(M·in) and dM += g·xᵀ,
// for features in rows of pixels (NCHW). Included by one file per instruction set, which gives
//
//   struct Isa {
//     static constexpr int kVectorBytes;     // see simd.h
//     static constexpr int kRows, kColumns;  // of a block of M·in: nodes × vectors of pixels
//     static constexpr int kSquare;          // side of a block of g·xᵀ
//   };
//
// In an unnamed namespace, and sparing of the standard library, for the reason that simd.h gives.
#pragma once

#include "common/simd.h"

namespace dgcn {
namespace {

/// K rows of pixels, `stride` elements apart.
template <typename Element>
struct Rows {
  Element* data;
  int64_t stride;

  Element* at(int64_t row, int64_t pixel) const { return data + row * stride + pixel; }
  Rows from(int64_t row, int64_t pixel) const { return {data == nullptr ? data : at(row, pixel), stride}; }
  operator Rows<const Element>() const { return {data, stride}; }
};

/// What becomes of a product: + bias, ReLU, + residual.
template <typename T, typename Out>
struct Epilogue {
  const T* bias;  ///< [K] or null
  bool relu;
  Rows<const Out> residual;  ///< or null
};

/// Fetches `count` elements into L1.
template <typename Element>
inline void prefetch(const Element* from, int64_t count) {
  for (int64_t byte = 0; byte < count * static_cast<int64_t>(sizeof(Element)); byte += 64)
    __builtin_prefetch(reinterpret_cast<const char*>(from) + byte);
}

/// [0, count) in the fewest parts of at most `most`, as equal as can be.
struct Parts {
  int count, parts;

  Parts(int count, int most) : count(count), parts((count + most - 1) / most) {}
  int begin(int part) const { return part * count / parts; }
  int size(int part) const { return begin(part + 1) - begin(part); }
};

/// out = epilogue(M·in). With kFetch the K rows `ahead` are fetched into L1 by the way, for whoever needs them next.
template <class Isa, typename In, typename Out, bool kFetch = false>
struct Product {
  using T = typename Accumulation<In>::type;
  using S = Simd<T, Isa>;
  using Vector = typename S::Vector;
  using Block = void (*)(const T* matrix, int K, Rows<const In> in, Rows<Out> out, Epilogue<T, Out> epilogue,
                         Rows<const Out> ahead, int64_t pixels);

  static constexpr int kUnit =
      Pixels<In, Isa>::kUnit > Pixels<Out, Isa>::kUnit ? Pixels<In, Isa>::kUnit : Pixels<Out, Isa>::kUnit;
  static constexpr int kStep = kUnit / S::kLanes;  // vectors of a unit
  static constexpr int kColumns = (Isa::kColumns + kStep - 1) / kStep * kStep;
  static constexpr int kRows = Isa::kRows * Isa::kColumns / kColumns;

  /// R rows of out, C vectors at a time. `matrix` points at the first of these rows in the transpose of M: the factors
  /// of all R rows at one k are neighbours.
  template <int R, int C>
  static void block(const T* matrix, int K, Rows<const In> in, Rows<Out> out, Epilogue<T, Out> epilogue,
                    Rows<const Out> ahead, int64_t pixels) {
    for (int64_t pixel = 0; pixel < pixels; pixel += C * S::kLanes) {
      Vector sum[R][C] = {};
      const T* factor = matrix;
      const In* x = in.data + pixel;
      for (int k = 0; k < K; ++k, factor += K, x += in.stride) {
        Vector value[C];
        for (int c = 0; c < C; ++c) value[c] = Pixels<In, Isa>::load(x, c);
        if constexpr (kFetch) prefetch(ahead.at(k, pixel), C * S::kLanes);
        for (int r = 0; r < R; ++r)
          for (int c = 0; c < C; ++c) sum[r][c] += factor[r] * value[c];
      }

      if (epilogue.bias != nullptr)  // last, so that small products are not rounded on top of it
        for (int r = 0; r < R; ++r)
          for (int c = 0; c < C; ++c) sum[r][c] += S::broadcast(epilogue.bias[r]);
      if (epilogue.relu)
        for (int r = 0; r < R; ++r)
          for (int c = 0; c < C; ++c) sum[r][c] = S::relu(sum[r][c]);
      if (epilogue.residual.data != nullptr)
        for (int r = 0; r < R; ++r)
          for (int c = 0; c < C; ++c) sum[r][c] += Pixels<Out, Isa>::load(epilogue.residual.at(r, pixel), c);
      for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; c += Pixels<Out, Isa>::kVectors)
          Pixels<Out, Isa>::store(out.at(r, pixel + c * S::kLanes), &sum[r][c]);
    }
  }

  /// Every block size up to kRows × kColumns.
  struct Blocks {
    Block of[kRows][kColumns / kStep];

    template <int R, int C>
    constexpr void fill() {
      of[R - 1][C / kStep - 1] = block<R, C>;
      if constexpr (C > kStep)
        fill<R, C - kStep>();
      else if constexpr (R > 1)
        fill<R - 1, kColumns>();
    }
    constexpr Blocks() : of{} { fill<kRows, kColumns>(); }
  };
  static constexpr Blocks kBlocks{};

  /// Features to fetch by the way, one in each of the first parts of the rows of `out`, as far as there are such; or null.
  struct Ahead {
    Rows<const Out> of_part[3];
  };

  /// `pixels` is a whole number of units.
  static void run(const T* m_transposed, int K, Rows<const In> in, Rows<Out> out, int64_t pixels,
                  const Epilogue<T, Out>& epilogue, const Ahead& ahead = {}) {
    constexpr int64_t kWidth = kColumns * S::kLanes;
    const int64_t whole = pixels / kWidth * kWidth;
    const int rest = static_cast<int>((pixels - whole) / S::kLanes);
    const Parts rows(K, kRows);
    for (int part = 0; part < rows.parts; ++part) {
      const int row = rows.begin(part);
      const auto columns = [&](int vectors, int64_t pixel, int64_t count) {
        const Epilogue<T, Out> here{epilogue.bias == nullptr ? nullptr : epilogue.bias + row, epilogue.relu,
                                    epilogue.residual.from(row, pixel)};
        const Rows<const Out> fetched = part < 3 ? ahead.of_part[part] : Rows<const Out>{};
        const Block* blocks = kBlocks.of[rows.size(part) - 1];
        if constexpr (kFetch)
          if (fetched.data == nullptr) blocks = Product<Isa, In, Out>::kBlocks.of[rows.size(part) - 1];
        blocks[vectors / kStep - 1](m_transposed + row, K, in.from(0, pixel), out.from(row, pixel), here,
                                    fetched.from(0, pixel), count);
      };
      if (whole > 0) columns(kColumns, 0, whole);
      if constexpr (kColumns > kStep)
        if (rest > 0) columns(rest, whole, pixels - whole);
    }
  }
};

/// dM += g·xᵀ, with g in the order of pixels that loads of x give, `padded` to whole units: its last unit belongs to the
/// last kUnit `pixels` of x, and is zero where these were in the unit before.
template <class Isa, typename X>
struct OuterProduct {
  using T = typename Accumulation<X>::type;
  using S = Simd<T, Isa>;
  using Vector = typename S::Vector;
  using Block = void (*)(Rows<const T> g, Rows<const X> x, int64_t pixels, int64_t padded, T* grad_m, int K);

  /// R rows of g and C rows of x.
  template <int R, int C>
  static void block(Rows<const T> g, Rows<const X> x, int64_t pixels, int64_t padded, T* grad_m, int K) {
    constexpr int kUnit = Pixels<X, Isa>::kUnit;
    Vector sum[R][C] = {};
    for (int64_t pixel = 0; pixel < padded; pixel += kUnit) {
      const int64_t of_x = pixel < pixels - kUnit ? pixel : pixels - kUnit;
      for (int v = 0; v < Pixels<X, Isa>::kVectors; ++v) {
        Vector columns[C];
        for (int c = 0; c < C; ++c) columns[c] = Pixels<X, Isa>::load(x.at(c, of_x), v);
        for (int r = 0; r < R; ++r) {
          Vector row = S::load(g.at(r, pixel + v * S::kLanes));
          S::keep_in_register(row);
          for (int c = 0; c < C; ++c) sum[r][c] += row * columns[c];
        }
      }
    }
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c) grad_m[r * K + c] += S::sum(sum[r][c]);
  }

  struct Blocks {
    Block of[Isa::kSquare][Isa::kSquare];

    template <int R, int C>
    constexpr void fill() {
      of[R - 1][C - 1] = block<R, C>;
      if constexpr (C > 1)
        fill<R, C - 1>();
      else if constexpr (R > 1)
        fill<R - 1, Isa::kSquare>();
    }
    constexpr Blocks() : of{} { fill<Isa::kSquare, Isa::kSquare>(); }
  };
  static constexpr Blocks kBlocks{};

  static void run(Rows<const T> g, Rows<const X> x, int64_t pixels, int64_t padded, T* grad_m, int K) {
    const Parts parts(K, Isa::kSquare);
    for (int i = 0; i < parts.parts; ++i)
      for (int j = 0; j < parts.parts; ++j) {
        const int row = parts.begin(i), column = parts.begin(j);
        kBlocks.of[parts.size(i) - 1][parts.size(j) - 1](g.from(row, 0), x.from(column, 0), pixels, padded,
                                                         grad_m + row * K + column, K);
      }
  }
};

}  // namespace
}  // namespace dgcn
