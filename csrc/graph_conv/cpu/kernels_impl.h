// The CPU kernels of the graph convolution, on the blocks of blocks.h. Included by one file per
// instruction set; see there.
#pragma once

#include <new>

#include "graph_conv/cpu/blocks.h"
#include "graph_conv/cpu/channels_last.h"
#include "graph_conv/cpu/kernels.h"

namespace dgcn {
namespace {

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

/// Calls `body(pixel, in buffer, count)` for spans of pixels that are whole units and at most kSpan. What is left over at
/// the end comes with pixels that were there before, to make a unit, which follows the others in the buffers.
constexpr int64_t kSpan = 384;  // a small graph's rows stay in L1; with a large one, a block's share of M does
template <typename Body>
inline void for_each_span(int64_t pixels, int64_t unit, Body body) {
  const int64_t whole = pixels / unit * unit;
  for (int64_t pixel = 0; pixel < whole; pixel += kSpan)
    body(pixel, pixel, whole - pixel < kSpan ? whole - pixel : kSpan);
  if (whole < pixels) body(pixels - unit, whole, unit);
}

/// Whether a tile can be worked on where it lies, without a packed copy.
template <class Isa, typename Stored>
inline bool is_direct(const Features<Stored>& features, const FeatureShape& shape, const Tile& tile) {
  return tile.images == 1 && features.column_stride == 1 && features.row_stride == shape.width &&
         tile.pixels >= Pixels<std::remove_const_t<Stored>, Isa>::kUnit;
}

/// The number of pixels that the kernels work on: a packed tile that is less than a unit is filled up with zeros.
inline int64_t padded_pixels(const Tile& tile, int64_t unit) {
  const int64_t pixels = tile.images * tile.pixels;
  return pixels < unit ? unit : pixels;
}

template <typename Stored>
inline Rows<Stored> rows_in_place(const Features<Stored>& features, const Tile& tile) {
  return {features.data + tile.first_image * features.image_stride + tile.first_pixel, features.node_stride};
}

/// The tile as K rows: in place where that is possible, else packed into `buffer`.
template <class Isa, typename Stored>
Rows<const Stored> read_tile(const Features<const Stored>& features, const FeatureShape& shape, const Tile& tile,
                             Rows<Stored> buffer) {
  if (is_direct<Isa>(features, shape, tile)) return rows_in_place(features, tile);
  const int K = shape.nodes;
  for_each_run(features, shape, tile, [&](const Stored* from, int64_t pixel, int64_t count) {
    Stored* to = buffer.data + pixel;
    if (features.column_stride == 1) {
      for (int k = 0; k < K; ++k) memcpy(to + k * buffer.stride, from + k * features.node_stride, count * sizeof(*to));
    } else if (features.node_stride == 1) {
      transpose<Isa>(from, features.column_stride, to, buffer.stride, count, K);
    } else {
      for (int k = 0; k < K; ++k)
        for (int64_t i = 0; i < count; ++i)
          to[k * buffer.stride + i] = from[k * features.node_stride + i * features.column_stride];
    }
  });
  const int64_t pixels = tile.images * tile.pixels;
  const int64_t padding = padded_pixels(tile, Pixels<Stored, Isa>::kUnit) - pixels;
  for (int k = 0; k < K && padding > 0; ++k) memset(buffer.at(k, pixels), 0, padding * sizeof(Stored));
  return buffer;
}

/// Where a tile of results goes: straight to memory, or through `buffer` and then `write_tile`.
template <class Isa, typename Stored>
Rows<Stored> tile_destination(const Features<Stored>& features, const FeatureShape& shape, const Tile& tile,
                              Rows<Stored> buffer) {
  return is_direct<Isa>(features, shape, tile) ? rows_in_place(features, tile) : buffer;
}

template <class Isa, typename Stored>
void write_tile(Rows<const Stored> rows, const Features<Stored>& features, const FeatureShape& shape,
                const Tile& tile) {
  if (is_direct<Isa>(features, shape, tile)) return;
  const int K = shape.nodes;
  for_each_run(features, shape, tile, [&](Stored* to, int64_t pixel, int64_t count) {
    const Stored* from = rows.data + pixel;
    if (features.column_stride == 1) {
      for (int k = 0; k < K; ++k) memcpy(to + k * features.node_stride, from + k * rows.stride, count * sizeof(*to));
    } else if (features.node_stride == 1) {
      transpose<Isa>(from, rows.stride, to, features.column_stride, K, count);
    } else {
      for (int k = 0; k < K; ++k)
        for (int64_t i = 0; i < count; ++i)
          to[k * features.node_stride + i * features.column_stride] = from[k * rows.stride + i];
    }
  });
}

/// Whether all pixels lie one after the other, the K nodes of each side by side; true of features that are absent.
template <typename Stored>
inline bool is_channels_last(const Features<Stored>& features, const FeatureShape& shape) {
  const int64_t K = shape.nodes;
  return features.data == nullptr ||
         (K > 1 && features.node_stride == 1 && features.column_stride == K && features.row_stride == K * shape.width &&
          features.image_stride == features.row_stride * shape.height);
}

/// The first pixel of a tile of such features.
template <typename Stored>
inline Stored* pixels_in_place(const Features<Stored>& features, const FeatureShape& shape, const Tile& tile) {
  if (features.data == nullptr) return nullptr;
  return features.data + (tile.first_image * shape.height * shape.width + tile.first_pixel) * shape.nodes;
}

/// Tiles of one thread, of K rows each, aligned to cache lines.
template <typename Element>
class TileBuffers {
 public:
  TileBuffers(int count, int K, int64_t stride)
      : stride_(stride),
        size_(K * stride),
        data_(static_cast<Element*>(operator new(count * size_ * sizeof(Element), kCacheLine))) {}
  ~TileBuffers() { operator delete(data_, kCacheLine); }
  TileBuffers(const TileBuffers&) = delete;
  TileBuffers& operator=(const TileBuffers&) = delete;

  Rows<Element> operator[](int index) const { return {data_ + index * size_, stride_}; }

 private:
  static constexpr std::align_val_t kCacheLine{64};

  int64_t stride_, size_;
  Element* data_;
};

// ---- Kernels (see CpuKernels) ---------------------------------------------------------------------------------------

template <class Isa, typename T>
inline void transpose(const T* in, T* out, int K) {
  transpose<Isa>(in, K, out, K, K, K);
}

/// out = a·b for K×K matrices.
template <typename T, class Isa>
void multiply(const T* a_transposed, const T* b, T* out, int K) {
  constexpr int kLanes = Simd<T, Isa>::kLanes;
  const auto columns = [&](int begin, int count) {
    const Rows<const T> in{b + begin, K};
    Product<Isa, T, T>::run(a_transposed, K, in, {out + begin, K}, count, {});
  };
  if (K >= kLanes) {
    columns(0, K / kLanes * kLanes);
    if (K % kLanes != 0) columns(K - kLanes, kLanes);  // the last vector overlaps its neighbour
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

/// forward() where x, y and the residual are channels_last.
template <class Isa, typename T>
void forward_channels_last(const ForwardArguments<T>& arguments, const Tiling& tiling, int64_t begin, int64_t end) {
  const FeatureShape& shape = arguments.shape;
  NodeMatrix<T, Isa> matrix(shape.nodes);
  for (int64_t index = begin; index < end; ++index) {
    const Tile tile = tiling.tile(index);
    const int64_t of_sample = tiling.sample_of_tile(index) * shape.nodes * shape.nodes;
    matrix.fill(arguments.m_transposed + of_sample, arguments.m + of_sample, arguments.bias);
    ChannelsLastProduct<T, Isa>::run({matrix, arguments.relu, pixels_in_place(arguments.residual, shape, tile)},
                                     pixels_in_place(arguments.x, shape, tile),
                                     pixels_in_place(arguments.y, shape, tile), tile.images * tile.pixels);
  }
}

template <class Isa, typename Stored, typename T = typename Accumulation<Stored>::type>
void forward(const ForwardArguments<Stored>& arguments, const Tiling& tiling, int64_t begin, int64_t end) {
  if constexpr (std::is_same_v<Stored, T>)
    if (is_channels_last(arguments.x, arguments.shape) && is_channels_last(arguments.y, arguments.shape) &&
        is_channels_last(arguments.residual, arguments.shape))
      return forward_channels_last<Isa>(arguments, tiling, begin, end);
  constexpr int kUnit = Pixels<Stored, Isa>::kUnit;
  const FeatureShape& shape = arguments.shape;
  const int K = shape.nodes;
  const TileBuffers<Stored> buffers(3, K, tiling.capacity());
  for (int64_t index = begin; index < end; ++index) {
    const Tile tile = tiling.tile(index);
    const T* m_transposed = arguments.m_transposed + tiling.sample_of_tile(index) * K * K;
    const Rows<const Stored> x = read_tile<Isa>(arguments.x, shape, tile, buffers[0]);
    Rows<const Stored> residual{};
    if (arguments.residual.data != nullptr) residual = read_tile<Isa>(arguments.residual, shape, tile, buffers[1]);
    const Rows<Stored> y = tile_destination<Isa>(arguments.y, shape, tile, buffers[2]);
    for_each_span(padded_pixels(tile, kUnit), kUnit, [&](int64_t pixel, int64_t, int64_t count) {
      Product<Isa, Stored, Stored, true>::run(m_transposed, K, x.from(0, pixel), y.from(0, pixel), count,
                                              {arguments.bias, arguments.relu, residual.from(0, pixel)},
                                              {{x.from(0, pixel + kSpan), y.from(0, pixel + kSpan), {}}});
    });
    write_tile<Isa, Stored>(y, arguments.y, shape, tile);
  }
}

/// gated = g where y > 0, else 0: the gradient through ReLU; without y, g. grad_bias += its sum over the pixels, unless
/// null.
template <class Isa, typename Stored, typename Y, typename T = typename Accumulation<Stored>::type>
void gate(Rows<const Stored> g, Rows<const Y> y, Rows<T> gated, int K, int64_t pixels, double* grad_bias) {
  using S = Simd<T, Isa>;
  constexpr int kPiece = 16;  // vectors: rounding errors grow with the number of terms added one by one
  const int vectors = static_cast<int>(pixels / S::kLanes);
  for (int k = 0; k < K; ++k) {
    const auto row = [&](auto value_of) {
      double total = 0;
      for (int begin = 0; begin < vectors; begin += kPiece) {
        typename S::Vector sum{};
        for (int v = begin; v < (vectors - begin < kPiece ? vectors : begin + kPiece); ++v) {
          const typename S::Vector value = value_of(Pixels<Stored, Isa>::load(g.at(k, 0), v), v);
          S::store(gated.at(k, v * S::kLanes), value);
          sum += value;
        }
        total += S::sum(sum);
      }
      if (grad_bias != nullptr) grad_bias[k] += total;
    };
    if (y.data == nullptr)
      row([](typename S::Vector value, int) { return value; });
    else
      row([&](typename S::Vector value, int v) {
        return Pixels<Y, Isa>::load(y.at(k, 0), v) > T(0) ? value : typename S::Vector{};
      });
  }
}

/// Zeros the first `count` pixels of a unit.
template <class Isa, typename Stored, typename T>
void clear(Rows<T> unit, int K, int64_t count) {
  for (int k = 0; k < K; ++k)
    for (int pixel = 0; pixel < count; ++pixel) *unit.at(k, Pixels<Stored, Isa>::lane(pixel)) = 0;
}

/// backward() where all features are channels_last.
template <class Isa, typename T>
void backward_channels_last(const BackwardArguments<T>& arguments, const Tiling& tiling, int64_t begin, int64_t end) {
  using S = Simd<T, Isa>;
  using Product = ChannelsLastProduct<T, Isa>;
  const FeatureShape& shape = arguments.shape;
  const int K = shape.nodes;
  NodeMatrix<T, Isa> matrix(K), matrix_transposed(K);
  const TileBuffers<T> buffers(2, K, kSpan);
  const TileBuffers<double> bias_buffer(1, K, 1);
  T *const gated = buffers[0].data, *const argument = buffers[1].data;
  double* const grad_bias = bias_buffer[0].data;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    T* grad_m = arguments.partial + chunk * (K * K + K);
    memset(grad_m, 0, K * K * sizeof(T));
    memset(grad_bias, 0, K * sizeof(double));
    const auto [first, last] = tiling.tiles_of_chunk(chunk);
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tiling.tile(index);
      const int64_t pixels = tile.images * tile.pixels, of_sample = tiling.sample_of_tile(index) * K * K;
      const T *m = arguments.m + of_sample, *m_transposed = arguments.m_transposed + of_sample;
      matrix.fill(m, m_transposed, nullptr);
      matrix_transposed.fill(m_transposed, m, arguments.bias);
      const T* x = pixels_in_place(arguments.x, shape, tile);
      const T* y = pixels_in_place(arguments.y, shape, tile);
      const T* g = pixels_in_place(arguments.grad_y, shape, tile);
      T* grad_x = pixels_in_place(arguments.grad_x, shape, tile);
      for (int64_t pixel = 0; pixel < pixels; pixel += kSpan) {
        const int64_t count = pixels - pixel < kSpan ? pixels - pixel : kSpan, start = pixel * K, next = kSpan * K;
        const T *grad_y = g + start, *sign = y == nullptr ? nullptr : y + start, *gradient = grad_y;
        if (arguments.relu) {
          if (y == nullptr) Product::run({matrix_transposed, false, nullptr}, x + start, argument, count);
          const T* positive = y == nullptr ? argument : sign;
          int64_t i = 0;
          for (; i + S::kLanes <= count * K; i += S::kLanes)
            S::store(gated + i, S::load(positive + i) > T(0) ? S::load(grad_y + i) : typename S::Vector{});
          for (; i < count * K; ++i) gated[i] = positive[i] > T(0) ? grad_y[i] : T(0);
          gradient = gated;
        }
        if (grad_x != nullptr)
          Product::run({matrix, false, nullptr}, gradient, grad_x + start, count, grad_y + next,
                       sign == nullptr ? nullptr : sign + next);
        if (arguments.need_params)
          ChannelsLastOuterProduct<T, Isa>::run(gradient, x + start, count, K, grad_m, grad_bias);
      }
    }
    for (int k = 0; k < K; ++k) grad_m[K * K + k] = static_cast<T>(grad_bias[k]);
  }
}

template <class Isa, typename Stored, typename T = typename Accumulation<Stored>::type>
void backward(const BackwardArguments<Stored>& arguments, const Tiling& tiling, int64_t begin, int64_t end) {
  if constexpr (std::is_same_v<Stored, T>)
    if (is_channels_last(arguments.grad_y, arguments.shape) && is_channels_last(arguments.x, arguments.shape) &&
        is_channels_last(arguments.y, arguments.shape) && is_channels_last(arguments.grad_x, arguments.shape))
      return backward_channels_last<Isa>(arguments, tiling, begin, end);
  constexpr int kUnit = Pixels<Stored, Isa>::kUnit;
  const FeatureShape& shape = arguments.shape;
  const int K = shape.nodes;
  const bool recompute = arguments.relu && arguments.y.data == nullptr;
  const bool need_x = arguments.grad_x.data != nullptr;
  const TileBuffers<Stored> buffers(4, K, tiling.capacity());
  const TileBuffers<T> g_buffer(1, K, tiling.capacity()), argument_buffer(1, K, kSpan);
  const TileBuffers<double> bias_buffer(1, K, 1);
  double* const grad_bias = bias_buffer[0].data;
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    T* grad_m = arguments.partial + chunk * (K * K + K);
    memset(grad_m, 0, K * K * sizeof(T));
    memset(grad_bias, 0, K * sizeof(double));
    const auto [first, last] = tiling.tiles_of_chunk(chunk);
    for (int64_t index = first; index < last; ++index) {
      const Tile tile = tiling.tile(index);
      const int64_t pixels = padded_pixels(tile, kUnit), matrix = tiling.sample_of_tile(index) * K * K;
      const Rows<const Stored> grad_y = read_tile<Isa>(arguments.grad_y, shape, tile, buffers[0]);
      Rows<const Stored> x{}, y{};
      if (recompute || arguments.need_params) x = read_tile<Isa>(arguments.x, shape, tile, buffers[1]);
      if (arguments.relu && !recompute) y = read_tile<Isa>(arguments.y, shape, tile, buffers[2]);
      Rows<Stored> grad_x{};
      if (need_x) grad_x = tile_destination<Isa>(arguments.grad_x, shape, tile, buffers[3]);
      const Rows<T> all_g = g_buffer[0], argument = argument_buffer[0];
      int64_t buffered = 0;
      for_each_span(pixels, kUnit, [&](int64_t pixel, int64_t in_buffer, int64_t count) {
        const bool fresh = pixel == in_buffer;  // no pixel was there before
        const Rows<T> g = all_g.from(0, in_buffer);
        const Rows<const Stored> grad_here = grad_y.from(0, pixel), y_here = y.from(0, pixel);
        if (recompute) {
          Product<Isa, Stored, T>::run(arguments.m_transposed + matrix, K, x.from(0, pixel), argument, count,
                                       {arguments.bias, false, {}});
          gate<Isa, Stored, T>(grad_here, argument, g, K, count, fresh ? grad_bias : nullptr);
        } else {
          gate<Isa, Stored, Stored>(grad_here, y_here, g, K, count, fresh ? grad_bias : nullptr);
        }
        if (need_x)
          // x is for the outer product, the others for the next span.
          Product<Isa, T, Stored, true>::run(arguments.m + matrix, K, g, grad_x.from(0, pixel), count,
                                             {nullptr, false, {}},
                                             {{grad_here.from(0, kSpan), y_here.from(0, kSpan), x.from(0, pixel)}});
        if (!fresh) {
          clear<Isa, Stored>(g, K, in_buffer - pixel);
          gate<Isa, T, T>(g, {}, g, K, count, grad_bias);
        }
        buffered = in_buffer + count;
      });
      if (arguments.need_params) OuterProduct<Isa, Stored>::run(all_g, x, pixels, buffered, grad_m, K);
      if (need_x) write_tile<Isa, Stored>(grad_x, arguments.grad_x, shape, tile);
    }
    for (int k = 0; k < K; ++k) grad_m[K * K + k] = static_cast<T>(grad_bias[k]);
  }
}

template <typename T, class Isa>
void parameter_gradients(const GraphParams<T>& params, const Mixing<T>& mixing, T* partial, int64_t chunks_per_sample,
                         int64_t begin, int64_t end) {
  const int K = params.nodes, size = K * K + K;
  for (int64_t sample = begin; sample < end; ++sample) {
    T* grad_m = partial + sample * chunks_per_sample * size;
    constexpr int kWidth = 32;
    for (int begin = 0; begin < size; begin += kWidth) {
      const int count = size - begin < kWidth ? size - begin : kWidth;
      double sums[kWidth] = {};
      for (int64_t chunk = 0; chunk < chunks_per_sample; ++chunk)
        for (int e = 0; e < count; ++e) sums[e] += grad_m[chunk * size + begin + e];
      for (int e = 0; e < count; ++e) grad_m[begin + e] = static_cast<T>(sums[e]);
    }

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
