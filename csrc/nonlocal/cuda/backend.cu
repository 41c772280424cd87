// The CUDA backend of the non-local layer: the sort, memory and launches. kernels.cuh computes.
#include <algorithm>
#include <cub/device/device_radix_sort.cuh>
#include <vector>

#include "common/cuda_utils.h"
#include "nonlocal/backend.h"
#include "nonlocal/cuda/kernels.cuh"
#include "nonlocal/cuda/transpose.cuh"

namespace dgcn::nonlocal {
namespace {

/// A function that launches a kernel on the device of the inputs.
auto launcher(const AffinityInputs& inputs) {
  return [device = inputs.g.get_device_index()](auto kernel, int64_t blocks, int threads, int64_t shared_bytes,
                                                const auto&... arguments) {
    launch(kernel, blocks, threads, shared_bytes, device, arguments...);
  };
}

/// Memory on the device of g, for kernels on the current stream.
class DeviceMemory {
 public:
  explicit DeviceMemory(const AffinityInputs& inputs) : like_(inputs.g) {}

  /// `count` elements of T, which live as long as this object.
  template <typename T>
  T* allocate(int64_t count) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    tensors_.push_back(torch::stable::new_empty(like_, {bytes}, ScalarType::Byte));
    return data<T>(tensors_.back());
  }

 private:
  const Tensor& like_;
  std::vector<Tensor> tensors_;
};

/// The items of all images in the order of their sequences, [B, 2N], in `memory`.
template <typename A>
const uint32_t* sort_items(const AffinityInputs& inputs, DeviceMemory& memory) {
  using Key = cuda::SortKey<A>;
  const int64_t count = 2 * inputs.images() * inputs.positions();
  uint32_t* const items = memory.allocate<uint32_t>(2 * count);
  DeviceMemory temporary(inputs);
  Key* const keys = temporary.allocate<Key>(2 * count);
  const int64_t blocks = std::min<int64_t>((count + cuda::kSortKeyThreads - 1) / cuda::kSortKeyThreads, 1 << 20);
  launcher(inputs)(&cuda::sort_key_kernel<A>, blocks, cuda::kSortKeyThreads, 0, const_data<A>(inputs.a),
                   const_data<A>(inputs.b), inputs.images(), inputs.positions(), keys, items);

  cub::DoubleBuffer<Key> sorted_keys(keys, keys + count);
  cub::DoubleBuffer<uint32_t> sorted_items(items, items + count);
  size_t bytes = 0;
  const auto sort = [&](void* workspace) {
    return cub::DeviceRadixSort::SortPairs(workspace, bytes, sorted_keys, sorted_items, count, 0,
                                           cuda::kKeyBits<A> + cuda::image_bits(inputs.images()),
                                           current_stream(inputs.g.get_device_index()));
  };
  DGCN_CUDA_CHECK(sort(nullptr));  // only computes `bytes`
  DGCN_CUDA_CHECK(sort(temporary.allocate<char>(static_cast<int64_t>(bytes))));
  return sorted_items.Current();
}

/// Converts features to rows and back, where their channels are not neighbours in memory already.
template <typename T>
class RowConverter {
 public:
  RowConverter(const AffinityInputs& inputs, DeviceMemory& memory) : inputs_(inputs), memory_(memory) {}

  /// The rows of `tensor`.
  FeatureView<const T> input(const Tensor& tensor) {
    const FeatureView<const T> features = const_view<T>(tensor);
    if (has_rows(features)) return features;
    const FeatureView<T> rows = allocate();
    cuda::transpose(features, rows, inputs_.shape(), true, false, launcher(inputs_));
    return as_const(rows);
  }

  /// Rows to write, which copy_back() copies to `tensor`.
  FeatureView<T> output(const Tensor& tensor) {
    const FeatureView<T> features = view<T>(tensor);
    return has_rows(features) ? features : allocate();
  }

  /// Copies the rows that `scan` has written to `tensor`, unless they are its own.
  template <typename A>
  void copy_back(const Tensor& tensor, const cuda::Scan<T, A>& scan) {
    const FeatureView<T> features = view<T>(tensor);
    if (features.data != scan.values.data)
      cuda::transpose(as_const(scan.values), features, inputs_.shape(), false, !scan.last_image_first,
                      launcher(inputs_));
  }

 private:
  template <typename Stored>
  bool has_rows(const FeatureView<Stored>& features) const {
    return features.channel_stride == 1 || inputs_.channels() == 1;
  }

  static FeatureView<const T> as_const(const FeatureView<T>& rows) {
    return {rows.data, rows.image_stride, rows.channel_stride, rows.position_stride};
  }

  FeatureView<T> allocate() {
    const auto [images, channels, positions] = inputs_.shape();
    return {memory_.allocate<T>(images * channels * positions), channels * positions, 1, channels};
  }

  const AffinityInputs& inputs_;
  DeviceMemory& memory_;
};

cuda::ChunkStates allocate_states(const AffinityInputs& inputs, DeviceMemory& memory) {
  const int64_t chunks = cuda::chunks_of(inputs.positions());
  return {memory.allocate<ScanState<double>>(inputs.images() * (chunks + 1) * inputs.channels()),
          memory.allocate<double>(inputs.images() * chunks)};
}

/// A descending scan through the sequences, which are sorted here. Its features and results are still to be set.
template <typename T, typename A>
cuda::Scan<T, A> make_scan(const AffinityInputs& inputs, DeviceMemory& memory) {
  cuda::Scan<T, A> scan{};
  scan.sequence = {const_data<A>(inputs.a), const_data<A>(inputs.b), sort_items<A>(inputs, memory), inputs.positions()};
  scan.shape = inputs.shape();
  scan.chunks = cuda::chunks_of(inputs.positions());
  scan.chunk_states = allocate_states(inputs, memory);
  return scan;
}

void forward(const AffinityInputs& inputs, const Tensor& y) {
  const DeviceGuard guard(inputs.g.get_device_index());
  for_dtype(inputs.g.scalar_type(), [&](auto types) {
    using T = typename decltype(types)::T;
    using A = typename decltype(types)::A;
    DeviceMemory memory(inputs);
    RowConverter<T> rows(inputs, memory);
    cuda::Scan<T, A> descending = make_scan<T, A>(inputs, memory);
    descending.added = rows.input(inputs.g);
    descending.values = rows.output(y);
    cuda::run_scan(descending, false, launcher(inputs));
    rows.copy_back(y, descending);
  });
}

void backward(const AffinityInputs& inputs, const Tensor& grad_y, const AffinityGradients& gradients) {
  const DeviceGuard guard(inputs.g.get_device_index());
  for_dtype(inputs.g.scalar_type(), [&](auto types) {
    using T = typename decltype(types)::T;
    using A = typename decltype(types)::A;
    DeviceMemory memory(inputs);
    RowConverter<T> rows(inputs, memory);
    cuda::Scan<T, A> ascending = make_scan<T, A>(inputs, memory);
    ascending.ascending = true;
    ascending.added = rows.input(grad_y);
    if (gradients.need_keys) {
      cuda::Scan<T, A> descending = ascending;
      descending.ascending = false;
      descending.added = ascending.dotted = rows.input(inputs.g);
      descending.dotted = ascending.added;
      descending.dots = data<A>(gradients.a);
      descending.chunk_states = allocate_states(inputs, memory);
      descending.opposite = ascending.chunk_states;
      cuda::run_scan(descending, false, launcher(inputs));
      ascending.last_image_first = true;
      ascending.dots = data<A>(gradients.b);
    }
    if (gradients.need_g) ascending.values = rows.output(gradients.g);
    cuda::run_scan(ascending, gradients.need_keys, launcher(inputs));
    if (gradients.need_g) rows.copy_back(gradients.g, ascending);
  });
}

}  // namespace

const AffinityBackend kCudaBackend{forward, backward};

}  // namespace dgcn::nonlocal
