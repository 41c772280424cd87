// The CPU kernels of the graph convolution. Compiled once per instruction set: see instruction_set.h.
#include "graph_conv/cpu/kernels.h"

#include "common/instruction_set.h"
#include "graph_conv/cpu/channels_last.h"
#include "graph_conv/cpu/pixel_rows.h"
#include "graph_conv/cpu/tile_access.h"

namespace dgcn::graph_conv {
namespace {

// ---- Matrices -------------------------------------------------------------------------------------------------------

template <typename T>
inline void transpose_matrix(const T* in, T* out, int K) {
  transpose(in, K, out, K, K, K);
}

/// out = a·b for K×K matrices.
template <typename T>
void multiply(const T* a_transposed, const T* b, T* out, int K) {
  constexpr int kLanes = Simd<T>::kLanes;
  const auto columns = [&](int begin, int count) {
    const NodeRows<const T> in{b + begin, K};
    RowProduct<T, T>::run(a_transposed, K, in, {out + begin, K}, count, {});
  };
  if (K >= kLanes) {
    columns(0, K / kLanes * kLanes);
    if (K % kLanes != 0) columns(K - kLanes, kLanes);  // the last vector overlaps the one before it
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
inline SampleMatrices<T> of_sample(const SampleMatrices<T>& all, int64_t sample, int K) {
  const int64_t start = sample * K * K;
  return {all.effective + start, all.s + start, all.s_transposed + start, all.m + start, all.m_transposed + start};
}

template <typename T>
void compute_matrices(const GraphParams<T>& params, const SampleMatrices<T>& matrices, int64_t begin, int64_t end) {
  const int K = params.nodes;
  for (int64_t sample = begin; sample < end; ++sample) {
    const SampleMatrices<T> own = of_sample(matrices, sample, K);
    effective_adjacency(own.effective, params, static_cast<uint32_t>(sample), 0, 1);
    row_softmax(own.s, own.effective, params, 0, 1);
    transpose_matrix(own.s, own.s_transposed, K);
    const bool target = params.mode.target;  // P = S, else Sᵀ
    if (params.weight == nullptr) {
      memcpy(own.m, target ? own.s : own.s_transposed, K * K * sizeof(T));
    } else {
      multiply(target ? own.s_transposed : own.s, params.weight, own.m, K);
    }
    transpose_matrix(own.m, own.m_transposed, K);
  }
}

template <typename T>
void parameter_gradients(const GraphParams<T>& params, const SampleMatrices<T>& matrices, T* partial,
                         int64_t chunks_per_sample, int64_t begin, int64_t end) {
  const int K = params.nodes, size = K * K + K;
  for (int64_t sample = begin; sample < end; ++sample) {
    // dM and db of the first chunk, to which those of the other chunks are added, kWidth entries at a time.
    T* grad_m = partial + sample * chunks_per_sample * size;
    constexpr int kWidth = 32;
    for (int first = 0; first < size; first += kWidth) {
      const int count = size - first < kWidth ? size - first : kWidth;
      double sums[kWidth] = {};
      for (int64_t chunk = 0; chunk < chunks_per_sample; ++chunk)
        for (int e = 0; e < count; ++e) sums[e] += grad_m[chunk * size + first + e];
      for (int e = 0; e < count; ++e) grad_m[first + e] = static_cast<T>(sums[e]);
    }

    const SampleMatrices<T> own = of_sample(matrices, sample, K);
    if (params.weight != nullptr) {
      multiply(params.mode.target ? own.s : own.s_transposed, grad_m, own.m, K);  // dW = Pᵀ dM
      transpose_matrix(grad_m, own.m_transposed, K);
      transpose_matrix(params.weight, own.s_transposed, K);
      multiply(own.m_transposed, own.s_transposed, grad_m, K);  // dP = dM Wᵀ
    }
    edge_weight_gradient(own.effective, own.s, grad_m, own.effective, K, params.mode, 0, 1);
  }
}

// ---- Forward --------------------------------------------------------------------------------------------------------

/// forward() for x, y and a residual that are channels_last.
template <typename T>
void forward_channels_last(const CpuForwardArguments<T>& arguments, const PixelTiling& tiling, int64_t begin,
                           int64_t end) {
  const MapShape& shape = arguments.shape;
  NodeMatrix<T> matrix(shape.nodes);
  for (int64_t index = begin; index < end; ++index) {
    const PixelTile tile = tiling.tile(index);
    const int64_t offset = tiling.sample_of_tile(index) * shape.nodes * shape.nodes;
    matrix.fill(arguments.m_transposed + offset, arguments.m + offset, arguments.bias);
    ChannelsLastProduct<T>::run({matrix, arguments.relu, pixels_in_place(arguments.residual, shape, tile)},
                                pixels_in_place(arguments.x, shape, tile), pixels_in_place(arguments.y, shape, tile),
                                tile.images * tile.pixels);
  }
}

template <typename Stored>
void forward(const CpuForwardArguments<Stored>& arguments, const PixelTiling& tiling, int64_t begin, int64_t end) {
  using T = typename Accumulation<Stored>::type;
  if constexpr (std::is_same_v<Stored, T>)
    if (is_channels_last(arguments.x, arguments.shape) && is_channels_last(arguments.y, arguments.shape) &&
        is_channels_last(arguments.residual, arguments.shape))
      return forward_channels_last(arguments, tiling, begin, end);
  constexpr int kUnit = Pixels<Stored>::kUnit;
  const MapShape& shape = arguments.shape;
  const int K = shape.nodes;
  const TileBuffers<Stored> buffers(3, K, tiling.capacity());
  for (int64_t index = begin; index < end; ++index) {
    const PixelTile tile = tiling.tile(index);
    const T* m_transposed = arguments.m_transposed + tiling.sample_of_tile(index) * K * K;
    const NodeRows<const Stored> x = read_tile(arguments.x, shape, tile, buffers[0]);
    NodeRows<const Stored> residual{};
    if (arguments.residual.data != nullptr) residual = read_tile(arguments.residual, shape, tile, buffers[1]);
    const NodeRows<Stored> y = tile_destination(arguments.y, shape, tile, buffers[2]);
    for_each_span(padded_pixels(tile, kUnit), kUnit, [&](int64_t pixel, int64_t, int64_t count) {
      RowProduct<Stored, Stored>::run(m_transposed, K, x.from(0, pixel), y.from(0, pixel), count,
                                      {arguments.bias, arguments.relu, residual.from(0, pixel)});
    });
    write_tile(y, arguments.y, shape, tile);
  }
}

// ---- Backward -------------------------------------------------------------------------------------------------------

/// gated = 0 where y ≤ 0, else g: the gradient through ReLU, which a NaN passes. If y is absent, gated = g. grad_bias
/// [K] += the sum of `gated` over the pixels, unless null.
template <typename Stored, typename Y, typename T = typename Accumulation<Stored>::type>
void gate(NodeRows<const Stored> g, NodeRows<const Y> y, NodeRows<T> gated, int K, int64_t pixels, double* grad_bias) {
  using S = Simd<T>;
  constexpr int kPiece = 16;  // vectors of a sum in T: its rounding error grows with their number
  const int vectors = static_cast<int>(pixels / S::kLanes);
  for (int k = 0; k < K; ++k) {
    const auto row = [&](auto value_of) {
      double total = 0;
      for (int begin = 0; begin < vectors; begin += kPiece) {
        typename S::Vector sum{};
        for (int v = begin; v < (vectors - begin < kPiece ? vectors : begin + kPiece); ++v) {
          const typename S::Vector value = value_of(Pixels<Stored>::load(g.at(k, 0), v), v);
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
        return Pixels<Y>::load(y.at(k, 0), v) <= T(0) ? typename S::Vector{} : value;
      });
  }
}

/// Zeros the first `count` pixels of a unit whose pixels are in the order in which Pixels<Stored> loads them.
template <typename Stored, typename T>
void clear_pixels(NodeRows<T> unit, int K, int64_t count) {
  for (int k = 0; k < K; ++k)
    for (int pixel = 0; pixel < count; ++pixel) *unit.at(k, Pixels<Stored>::lane(pixel)) = 0;
}

/// Calls body(tile, offset, dM, db) for every tile of the chunks [begin, end), where `offset` is that of the matrices
/// of the tile's sample in m and m_transposed. `body` adds to dM [K, K] and db [K], which are stored for each chunk.
template <typename Stored, typename T, typename Body>
void for_each_tile(const CpuBackwardArguments<Stored, T>& arguments, const PixelTiling& tiling, int64_t begin,
                   int64_t end, Body body) {
  const int K = arguments.shape.nodes;
  const AlignedArray<double> bias_buffer(K);
  double* const grad_bias = bias_buffer.data();
  for (int64_t chunk = begin; chunk < end; ++chunk) {
    T* const grad_m = arguments.partial + chunk * (K * K + K);
    memset(grad_m, 0, K * K * sizeof(T));
    memset(grad_bias, 0, K * sizeof(double));
    const TileRange range = tiling.tiles_of_chunk(chunk);
    for (int64_t index = range.begin; index < range.end; ++index)
      body(tiling.tile(index), tiling.sample_of_tile(index) * K * K, grad_m, grad_bias);
    for (int k = 0; k < K; ++k) grad_m[K * K + k] = static_cast<T>(grad_bias[k]);
  }
}

/// backward() for features that are all channels_last.
template <typename T>
void backward_channels_last(const CpuBackwardArguments<T>& arguments, const PixelTiling& tiling, int64_t begin,
                            int64_t end) {
  using S = Simd<T>;
  using Product = ChannelsLastProduct<T>;
  const MapShape& shape = arguments.shape;
  const int K = shape.nodes;
  NodeMatrix<T> matrix(K), matrix_transposed(K);
  const AlignedArray<T> gated_buffer(K * kSpan), recomputed_buffer(K * kSpan);
  T *const gated = gated_buffer.data(), *const recomputed = recomputed_buffer.data();
  for_each_tile(arguments, tiling, begin, end,
                [&](const PixelTile& tile, int64_t offset, T* grad_m, double* grad_bias) {
                  const T *m = arguments.m + offset, *m_transposed = arguments.m_transposed + offset;
                  matrix.fill(m, m_transposed, nullptr);
                  matrix_transposed.fill(m_transposed, m, arguments.bias);
                  const T* x = pixels_in_place(arguments.x, shape, tile);
                  const T* y = pixels_in_place(arguments.y, shape, tile);
                  const T* grad_y = pixels_in_place(arguments.grad_y, shape, tile);
                  T* grad_x = pixels_in_place(arguments.grad_x, shape, tile);
                  const int64_t pixels = tile.images * tile.pixels;
                  for (int64_t pixel = 0; pixel < pixels; pixel += kSpan) {
                    const int64_t count = pixels - pixel < kSpan ? pixels - pixel : kSpan, start = pixel * K;
                    const T* g = grad_y + start;
                    if (arguments.relu) {
                      if (y == nullptr) Product::run({matrix_transposed, false, nullptr}, x + start, recomputed, count);
                      const T* sign = y == nullptr ? recomputed : y + start;
                      int64_t i = 0;
                      for (; i + S::kLanes <= count * K; i += S::kLanes)
                        S::store(gated + i, S::load(sign + i) <= T(0) ? typename S::Vector{} : S::load(g + i));
                      for (; i < count * K; ++i) gated[i] = sign[i] <= T(0) ? T(0) : g[i];
                      g = gated;
                    }
                    if (grad_x != nullptr) Product::run({matrix, false, nullptr}, g, grad_x + start, count);
                    if (arguments.need_params)
                      ChannelsLastOuterProduct<T>::run(g, x + start, count, K, grad_m, grad_bias);
                  }
                });
}

template <typename Stored>
void backward(const CpuBackwardArguments<Stored>& arguments, const PixelTiling& tiling, int64_t begin, int64_t end) {
  using T = typename Accumulation<Stored>::type;
  if constexpr (std::is_same_v<Stored, T>)
    if (is_channels_last(arguments.grad_y, arguments.shape) && is_channels_last(arguments.x, arguments.shape) &&
        is_channels_last(arguments.y, arguments.shape) && is_channels_last(arguments.grad_x, arguments.shape))
      return backward_channels_last(arguments, tiling, begin, end);
  constexpr int kUnit = Pixels<Stored>::kUnit;
  const MapShape& shape = arguments.shape;
  const int K = shape.nodes;
  const bool recompute = arguments.relu && arguments.y.data == nullptr;
  const bool need_x = arguments.grad_x.data != nullptr;
  const TileBuffers<Stored> buffers(4, K, tiling.capacity());
  const TileBuffers<T> g_buffer(1, K, tiling.capacity()), recomputed_buffer(1, K, kSpan);
  const NodeRows<T> tile_g = g_buffer[0], recomputed = recomputed_buffer[0];
  for_each_tile(arguments, tiling, begin, end,
                [&](const PixelTile& tile, int64_t offset, T* grad_m, double* grad_bias) {
                  const int64_t pixels = padded_pixels(tile, kUnit);
                  const NodeRows<const Stored> grad_y = read_tile(arguments.grad_y, shape, tile, buffers[0]);
                  NodeRows<const Stored> x{}, y{};
                  if (recompute || arguments.need_params) x = read_tile(arguments.x, shape, tile, buffers[1]);
                  if (arguments.relu && !recompute) y = read_tile(arguments.y, shape, tile, buffers[2]);
                  NodeRows<Stored> grad_x{};
                  if (need_x) grad_x = tile_destination(arguments.grad_x, shape, tile, buffers[3]);
                  int64_t padded = 0;  // pixels in tile_g
                  for_each_span(pixels, kUnit, [&](int64_t pixel, int64_t in_buffer, int64_t count) {
                    const NodeRows<T> g = tile_g.from(0, in_buffer);
                    const NodeRows<const Stored> span_grad_y = grad_y.from(0, pixel);
                    const bool overlaps = pixel != in_buffer;
                    double* const span_grad_bias = overlaps ? nullptr : grad_bias;
                    if (recompute) {
                      RowProduct<Stored, T>::run(arguments.m_transposed + offset, K, x.from(0, pixel), recomputed,
                                                 count, {arguments.bias, false, {}});
                      gate<Stored, T>(span_grad_y, recomputed, g, K, count, span_grad_bias);
                    } else {
                      gate<Stored, Stored>(span_grad_y, y.from(0, pixel), g, K, count, span_grad_bias);
                    }
                    if (need_x)
                      RowProduct<T, Stored>::run(arguments.m + offset, K, g, grad_x.from(0, pixel), count, {});
                    if (overlaps) {  // the unit before has added these pixels to dM and db already
                      clear_pixels<Stored>(g, K, in_buffer - pixel);
                      gate<T, T>(g, {}, g, K, count, grad_bias);
                    }
                    padded = in_buffer + count;
                  });
                  if (arguments.need_params) RowOuterProduct<Stored>::run(tile_g, x, pixels, padded, grad_m, K);
                  if (need_x) write_tile(grad_x, arguments.grad_x, shape, tile);
                });
}

template <typename Stored>
constexpr GraphConvKernels<Stored> kernels() {
  using T = typename Accumulation<Stored>::type;
  return {compute_matrices<T>, forward<Stored>, backward<Stored>, parameter_gradients<T>};
}

constexpr GraphConvKernelTable kKernels{kernels<double>(), kernels<float>(), kernels<BFloat16>(), kernels<Float16>()};

}  // namespace
}  // namespace dgcn::graph_conv

template <>
const dgcn::graph_conv::GraphConvKernelTable&
dgcn::kernels_for<dgcn::graph_conv::GraphConvKernelTable, dgcn::InstructionSet::DGCN_INSTRUCTION_SET>() {
  return graph_conv::kKernels;
}
