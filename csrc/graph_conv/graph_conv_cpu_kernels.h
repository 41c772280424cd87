// The CPU kernels of the graph convolution. Included by one file per instruction set, which gives
//
//   struct Isa {
//     static constexpr int kVectorBytes;    // see simd.h
//     static constexpr int kRows, kColumns  // accumulators of a register block: kRows nodes × kColumns vectors of
//     pixels
//   };
//
// In an unnamed namespace, and sparing of the standard library, for the reason that simd.h gives.
#pragma once

#include <new>

#include "../simd.h"
#include "graph_conv_cpu.h"

namespace dgcn {
namespace {

// ---- Register blocks ------------------------------------------------------------------------------------------------

/// K rows of pixels, `stride` elements apart.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;

  Rows offset(int64_t row, int64_t pixel) const {
    return {data == nullptr ? data : data + row * stride + pixel, stride};
  }
};

/// What becomes of a product: + bias, ReLU, + residual.
template <typename T>
struct Epilogue {
  const T* bias;  ///< [K] or null
  bool relu;
  Rows<const T> residual;  ///< or null
};

/// R rows of out = epilogue(matrix · in), over `pixels` pixels, C vectors at a time. `matrix` points at the first of
/// these rows in its transpose [K, K]: the factors of all R rows at one k are neighbours.
template <typename T, class Isa, int R, int C>
void product_block(const T* matrix, int K, Rows<const T> in, Rows<T> out, Epilogue<T> epilogue, int64_t pixels) {
  using S = Simd<T, Isa>;
  for (int64_t pixel = 0; pixel < pixels; pixel += C * S::kLanes) {
    typename S::Vector sum[R][C];
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c) sum[r][c] = S::broadcast(epilogue.bias == nullptr ? T(0) : epilogue.bias[r]);

    const T *factor = matrix, *x = in.data + pixel;
    for (int k = 0; k < K; ++k, factor += K, x += in.stride) {
      typename S::Vector value[C];
      for (int c = 0; c < C; ++c) value[c] = S::load(x + c * S::kLanes);
      for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) sum[r][c] += factor[r] * value[c];
    }

    if (epilogue.relu)
      for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c)
          sum[r][c] = typename S::Vector{} > sum[r][c] ? typename S::Vector{} : sum[r][c];  // keeps NaN
    if (epilogue.residual.data != nullptr)
      for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) sum[r][c] += S::load(epilogue.residual.offset(r, pixel).data + c * S::kLanes);
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c) S::store(out.offset(r, pixel).data + c * S::kLanes, sum[r][c]);
  }
}

/// dM[r][c] += Σ over pixels of g_r · x_c, for R rows of g and C rows of x.
template <typename T, class Isa, int R, int C>
void outer_block(Rows<const T> g, Rows<const T> x, int64_t pixels, T* grad_m, int K) {
  using S = Simd<T, Isa>;
  typename S::Vector sum[R][C] = {};
  S::for_each_once(pixels, [&](int64_t pixel, auto once) __attribute__((always_inline)) {
    typename S::Vector columns[C];
    for (int c = 0; c < C; ++c) columns[c] = S::load(x.offset(c, pixel).data);
    for (int r = 0; r < R; ++r) {
      typename S::Vector row = once(S::load(g.offset(r, pixel).data));
      S::keep_in_register(row);
      for (int c = 0; c < C; ++c) sum[r][c] += row * columns[c];
    }
  });
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) grad_m[r * K + c] += S::sum(sum[r][c]);
}

/// The instances of both for every block size up to kRows × kColumns.
template <typename T, class Isa>
struct Blocks {
  using Product = void (*)(const T*, int, Rows<const T>, Rows<T>, Epilogue<T>, int64_t);
  using Outer = void (*)(Rows<const T>, Rows<const T>, int64_t, T*, int);
  Product product[Isa::kRows][Isa::kColumns];
  Outer outer[Isa::kRows][Isa::kColumns];

  template <int R, int C>
  constexpr void fill() {
    product[R - 1][C - 1] = product_block<T, Isa, R, C>;
    outer[R - 1][C - 1] = outer_block<T, Isa, R, C>;
    if constexpr (C > 1)
      fill<R, C - 1>();
    else if constexpr (R > 1)
      fill<R - 1, Isa::kColumns>();
  }
  constexpr Blocks() : product{}, outer{} { fill<Isa::kRows, Isa::kColumns>(); }
};

template <typename T, class Isa>
constexpr Blocks<T, Isa> kBlocks{};

/// [0, count) in the fewest parts of at most `most`, as equal as can be.
struct Parts {
  int count, parts;

  Parts(int count, int most) : count(count), parts((count + most - 1) / most) {}
  int begin(int part) const { return part * count / parts; }
  int size(int part) const { return begin(part + 1) - begin(part); }
};

/// out = epilogue(M · in). `pixels` is at least one vector; the last vectors overlap their neighbours where it is not a
/// whole number of them.
template <typename T, class Isa>
void product(const T* m_transposed, int K, Rows<const T> in, Rows<T> out, int64_t pixels, const Epilogue<T>& epilogue) {
  constexpr int kLanes = Simd<T, Isa>::kLanes;
  const Parts rows(K, Isa::kRows);
  const int64_t whole = pixels / (Isa::kColumns * kLanes) * (Isa::kColumns * kLanes);
  const int vectors = static_cast<int>((pixels - whole + kLanes - 1) / kLanes);
  for (int part = 0; part < rows.parts; ++part) {
    const int row = rows.begin(part);
    const auto& blocks = kBlocks<T, Isa>.product[rows.size(part) - 1];
    const auto run = [&](int columns, int64_t pixel, int64_t count) {
      const Epilogue<T> here{epilogue.bias == nullptr ? nullptr : epilogue.bias + row, epilogue.relu,
                             epilogue.residual.offset(row, pixel)};
      blocks[columns - 1](m_transposed + row, K, in.offset(0, pixel), out.offset(row, pixel), here, count);
    };
    if (whole > 0) run(Isa::kColumns, 0, whole);
    if (pixels >= vectors * kLanes) {
      if (vectors > 0) run(vectors, pixels - vectors * kLanes, vectors * kLanes);
    } else {  // too few to overlap all of them
      run(vectors - 1, 0, (vectors - 1) * kLanes);
      run(1, pixels - kLanes, kLanes);
    }
  }
}

/// grad_m += g · xᵀ and grad_bias += Σ g; `pixels` is at least one vector.
template <typename T, class Isa>
void accumulate_outer(Rows<const T> g, Rows<const T> x, int64_t pixels, int K, T* grad_m, T* grad_bias) {
  using S = Simd<T, Isa>;
  const Parts rows(K, Isa::kRows), columns(K, Isa::kColumns);
  for (int i = 0; i < rows.parts; ++i)
    for (int j = 0; j < columns.parts; ++j) {
      const int row = rows.begin(i), column = columns.begin(j);
      kBlocks<T, Isa>.outer[rows.size(i) - 1][columns.size(j) - 1](g.offset(row, 0), x.offset(column, 0), pixels,
                                                                   grad_m + row * K + column, K);
    }
  for (int k = 0; k < K; ++k) {
    typename S::Vector sum{};
    S::for_each_once(pixels, [&](int64_t pixel, auto once) { sum += once(S::load(g.offset(k, pixel).data)); });
    grad_bias[k] += S::sum(sum);
  }
}

// ---- Tiles ----------------------------------------------------------------------------------------------------------

/// Calls `body(in memory, in tile, count)` for every run of pixels of the tile that lies at a constant stride in
/// memory.
template <typename Stored, typename Body>
inline void for_each_run(const Features<Stored>& features, const FeatureShape& shape, const Tile& tile, Body body) {
  const bool flat = features.row_stride == shape.width * features.column_stride;
  int64_t done = 0;
  for (int64_t image = tile.first_image; image < tile.first_image + tile.images; ++image) {
    Stored* base = features.data + image * features.image_stride;
    for (int64_t pixel = tile.first_pixel, end = pixel + tile.pixels; pixel < end;) {
      const int64_t row = flat ? 0 : pixel / shape.width, column = pixel - row * shape.width;
      const int64_t rest = flat || end - pixel < shape.width - column ? end - pixel : shape.width - column;
      body(base + row * features.row_stride + column * features.column_stride, done, rest);
      pixel += rest;
      done += rest;
    }
  }
}

/// The number of pixels that the kernels work on: at least a vector, for which packing adds zeros.
template <typename T, class Isa>
inline int64_t padded_pixels(const Tile& tile) {
  constexpr int64_t kLanes = Simd<T, Isa>::kLanes;
  const int64_t pixels = tile.images * tile.pixels;
  return pixels < kLanes ? kLanes : pixels;
}

/// Whether the kernels can work on the features where they lie, without a packed copy of the tile.
template <typename T, class Isa, typename Stored>
inline bool is_direct(const Features<Stored>& features, const FeatureShape& shape, const Tile& tile) {
  return std::is_same_v<std::remove_const_t<Stored>, T> && tile.images == 1 && features.column_stride == 1 &&
         features.row_stride == shape.width && tile.pixels >= Simd<T, Isa>::kLanes;
}

template <typename Stored>
inline Stored* first_pixel(const Features<Stored>& features, const Tile& tile) {
  return features.data + tile.first_image * features.image_stride + tile.first_pixel;
}

/// The tile as K rows of T: in place where that is possible, else packed into `buffer`.
template <class Isa, typename Stored, typename T>
Rows<const T> read_tile(const Features<const Stored>& features, const FeatureShape& shape, const Tile& tile,
                        Rows<T> buffer) {
  if constexpr (std::is_same_v<Stored, T>)
    if (is_direct<T, Isa>(features, shape, tile)) return {first_pixel(features, tile), features.node_stride};
  const int K = shape.nodes;
  for_each_run(features, shape, tile, [&](const Stored* from, int64_t pixel, int64_t count) {
    T* to = buffer.data + pixel;
    if (features.column_stride == 1) {
      for (int k = 0; k < K; ++k) convert_row(from + k * features.node_stride, to + k * buffer.stride, count);
    } else if (features.node_stride == 1) {
      transpose<Isa>(from, features.column_stride, to, buffer.stride, count, K);
    } else {
      for (int k = 0; k < K; ++k)
        for (int64_t i = 0; i < count; ++i)
          to[k * buffer.stride + i] = widen(from[k * features.node_stride + i * features.column_stride]);
    }
  });
  const int64_t pixels = tile.images * tile.pixels, padding = padded_pixels<T, Isa>(tile) - pixels;
  for (int k = 0; k < K && padding > 0; ++k) memset(buffer.offset(k, pixels).data, 0, padding * sizeof(T));
  return {buffer.data, buffer.stride};
}

/// Where a tile of results goes: straight to memory, or through `buffer` and then `write_tile`.
template <class Isa, typename Stored, typename T>
Rows<T> tile_destination(const Features<Stored>& features, const FeatureShape& shape, const Tile& tile,
                         Rows<T> buffer) {
  if constexpr (std::is_same_v<Stored, T>)
    if (is_direct<T, Isa>(features, shape, tile)) return {first_pixel(features, tile), features.node_stride};
  return buffer;
}

template <class Isa, typename Stored, typename T>
void write_tile(Rows<T> rows, const Features<Stored>& features, const FeatureShape& shape, const Tile& tile) {
  if (is_direct<T, Isa>(features, shape, tile)) return;
  const int K = shape.nodes;
  for_each_run(features, shape, tile, [&](Stored* to, int64_t pixel, int64_t count) {
    const T* from = rows.data + pixel;
    if (features.column_stride == 1) {
      for (int k = 0; k < K; ++k) convert_row(from + k * rows.stride, to + k * features.node_stride, count);
    } else if (features.node_stride == 1) {
      transpose<Isa>(from, rows.stride, to, features.column_stride, K, count);
    } else {
      for (int k = 0; k < K; ++k)
        for (int64_t i = 0; i < count; ++i)
          to[k * features.node_stride + i * features.column_stride] = convert<Stored>(from[k * rows.stride + i]);
    }
  });
}

/// Packed tiles of one thread, aligned to cache lines.
template <typename T>
class TileBuffers {
 public:
  TileBuffers(int count, int K, int64_t stride)
      : stride_(stride),
        size_(K * stride),
        data_(static_cast<T*>(operator new(count * size_ * sizeof(T), kCacheLine))) {}
  ~TileBuffers() { operator delete(data_, kCacheLine); }
  TileBuffers(const TileBuffers&) = delete;
  TileBuffers& operator=(const TileBuffers&) = delete;

  Rows<T> operator[](int index) const { return {data_ + index * size_, stride_}; }

 private:
  static constexpr std::align_val_t kCacheLine{64};

  int64_t stride_, size_;
  T* data_;
};

// ---- Kernels (see CpuKernels) ---------------------------------------------------------------------------------------

template <class Isa, typename T>
inline void transpose(const T* in, T* out, int K) {
  transpose<Isa>(in, K, out, K, K, K);
}

/// out = a · b for K×K matrices.
template <typename T, class Isa>
void multiply(const T* a_transposed, const T* b, T* out, int K) {
  if (K >= Simd<T, Isa>::kLanes) {
    product<T, Isa>(a_transposed, K, {b, K}, {out, K}, K, {});
    return;
  }
  for (int r = 0; r < K; ++r)
    for (int c = 0; c < K; ++c) {
      T sum = 0;
      for (int t = 0; t < K; ++t) sum += a_transposed[t * K + r] * b[t * K + c];
      out[r * K + c] = sum;
    }
}

template <typename T>
inline Mixing<T> of_sample(const Mixing<T>& all, int64_t sample, int K) {
  const int64_t start = sample * K * K;
  return {all.effective + start, all.s + start, all.s_transposed + start, all.m + start, all.m_transposed + start};
}

template <typename T, class Isa>
void mix(const GraphParams<T>& params, const Mixing<T>& mixing, int64_t begin, int64_t end) {
  const int K = params.nodes;
  for (int64_t sample = begin; sample < end; ++sample) {
    const Mixing<T> of = of_sample(mixing, sample, K);
    effective_adjacency(of.effective, params, static_cast<uint32_t>(sample), 0, 1);
    row_softmax(of.s, of.effective, params, 0, 1);
    transpose<Isa>(of.s, of.s_transposed, K);
    const bool target = params.mode.target;  // P = S, else Sᵀ
    if (params.weight == nullptr) {
      memcpy(of.m, target ? of.s : of.s_transposed, K * K * sizeof(T));
    } else {
      multiply<T, Isa>(target ? of.s_transposed : of.s, params.weight, of.m, K);
    }
    transpose<Isa>(of.m, of.m_transposed, K);
  }
}

template <class Isa, typename Stored, typename T = typename Accumulation<Stored>::type>
void forward(const ForwardArguments<Stored>& arguments, const Tiling& tiling, int64_t begin, int64_t end) {
  const FeatureShape& shape = arguments.shape;
  const int K = shape.nodes;
  const TileBuffers<T> buffers(3, K, tiling.capacity());
  for (int64_t index = begin; index < end; ++index) {
    const Tile tile = tiling.tile(index);
    const int64_t pixels = padded_pixels<T, Isa>(tile);
    const T* m_transposed = arguments.m_transposed + tiling.sample_of_tile(index) * K * K;
    const Rows<const T> x = read_tile<Isa>(arguments.x, shape, tile, buffers[0]);
    Epilogue<T> epilogue{arguments.bias, arguments.relu, {nullptr, 0}};
    if (arguments.residual.data != nullptr)
      epilogue.residual = read_tile<Isa>(arguments.residual, shape, tile, buffers[1]);
    const Rows<T> y = tile_destination<Isa>(arguments.y, shape, tile, buffers[2]);
    product<T, Isa>(m_transposed, K, x, y, pixels, epilogue);
    write_tile<Isa>(y, arguments.y, shape, tile);
  }
}

/// gated = y > 0 ? g : 0, the gradient through ReLU; `gated` may be g.
template <typename T, class Isa>
void gate(Rows<const T> g, Rows<const T> y, Rows<T> gated, int K, int64_t pixels) {
  using S = Simd<T, Isa>;
  for (int k = 0; k < K; ++k)
    S::for_each(pixels, [&](int64_t pixel) {
      const typename S::Vector value = S::load(g.offset(k, pixel).data), sign = S::load(y.offset(k, pixel).data);
      S::store(gated.offset(k, pixel).data, sign > T(0) ? value : typename S::Vector{});
    });
}

template <class Isa, typename Stored, typename T = typename Accumulation<Stored>::type>
void backward(const BackwardArguments<Stored>& arguments, const Tiling& tiling, int64_t begin, int64_t end) {
  const FeatureShape& shape = arguments.shape;
  const int K = shape.nodes;
  const bool recompute = arguments.relu && arguments.y.data == nullptr;
  const TileBuffers<T> buffers(3, K, tiling.capacity());
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    T* grad_m = arguments.partial == nullptr ? nullptr : arguments.partial + chunk * (K * K + K);
    if (grad_m != nullptr) memset(grad_m, 0, (K * K + K) * sizeof(T));
    const auto [first, last] = tiling.tiles_of_chunk(chunk);
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tiling.tile(index);
      const int64_t pixels = padded_pixels<T, Isa>(tile), matrix = tiling.sample_of_tile(index) * K * K;
      Rows<const T> g = read_tile<Isa>(arguments.grad_y, shape, tile, buffers[0]), x{}, y{};
      if (recompute || grad_m != nullptr) x = read_tile<Isa>(arguments.x, shape, tile, buffers[1]);
      if (arguments.relu) {
        if (recompute) {
          product<T, Isa>(arguments.m_transposed + matrix, K, x, buffers[2], pixels, {arguments.bias, false, {}});
          y = {buffers[2].data, buffers[2].stride};
        } else {
          y = read_tile<Isa>(arguments.y, shape, tile, buffers[2]);
        }
        gate<T, Isa>(g, y, buffers[0], K, pixels);
        g = {buffers[0].data, buffers[0].stride};
      }
      if (arguments.grad_x.data != nullptr) {
        const Rows<T> grad_x = tile_destination<Isa>(arguments.grad_x, shape, tile, buffers[2]);
        product<T, Isa>(arguments.m + matrix, K, g, grad_x, pixels, {nullptr, false, {}});
        write_tile<Isa>(grad_x, arguments.grad_x, shape, tile);
      }
      if (grad_m != nullptr) accumulate_outer<T, Isa>(g, x, pixels, K, grad_m, grad_m + K * K);
    }
  }
}

template <typename T, class Isa>
void parameter_gradients(const GraphParams<T>& params, const Mixing<T>& mixing, T* partial, int64_t chunks_per_sample,
                         int64_t begin, int64_t end) {
  const int K = params.nodes, size = K * K + K;
  for (int64_t sample = begin; sample < end; ++sample) {
    T* grad_m = partial + sample * chunks_per_sample * size;
    for (int64_t chunk = 1; chunk < chunks_per_sample; ++chunk)
      for (int e = 0; e < size; ++e) grad_m[e] += grad_m[chunk * size + e];

    const Mixing<T> of = of_sample(mixing, sample, K);
    if (params.weight != nullptr) {
      multiply<T, Isa>(params.mode.target ? of.s : of.s_transposed, grad_m, of.m, K);  // dW = Pᵀ dM
      transpose<Isa>(grad_m, of.m_transposed, K);
      transpose<Isa>(params.weight, of.s_transposed, K);
      multiply<T, Isa>(of.m_transposed, of.s_transposed, grad_m, K);  // dP = dM Wᵀ
    }
    edge_weight_gradient(of.effective, of.s, grad_m, of.effective, K, params.mode, 0, 1);
  }
}

template <class Isa, typename Stored>
constexpr CpuKernels<Stored> kernels() {
  using T = typename Accumulation<Stored>::type;
  return {mix<T, Isa>, forward<Isa, Stored>, backward<Isa, Stored>, parameter_gradients<T, Isa>};
}

template <class Isa>
constexpr CpuKernelSet kernel_set() {
  return {kernels<Isa, double>(), kernels<Isa, float>(), kernels<Isa, BFloat16>(), kernels<Isa, Float16>()};
}

}  // namespace
}  // namespace dgcn
