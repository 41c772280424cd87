// The CUDA backend of the non-local layer: the sort, memory and launches. kernels.cuh computes.
#include <algorithm>
#include <array>
#include <cub/block/block_radix_sort.cuh>
#include <cub/device/device_radix_sort.cuh>
#include <vector>

#include "common/cuda_utils.h"
#include "nonlocal/backend.h"
#include "nonlocal/cuda/kernels.cuh"

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

template <typename Bits>
struct BlockSort {
  using Sort = cub::BlockRadixSort<Bits, cuda::kBlockSortThreads, cuda::kBlockSortStrip, uint32_t>;
  static constexpr int64_t kBytes = sizeof(typename Sort::TempStorage);
  static_assert(kBytes <= 48 * 1024);

  static __device__ void sort(unsigned char* shared, Bits (&bits)[cuda::kBlockSortStrip],
                              uint32_t (&items)[cuda::kBlockSortStrip]) {
    Sort(*reinterpret_cast<typename Sort::TempStorage*>(shared)).Sort(bits, items);
  }
};

/// The items of all images in the order of their sequences, to `order` [B, 2N].
template <typename A>
void sort_items(const AffinityInputs& inputs, uint32_t* order) {
  const A *const a = const_data<A>(inputs.a), *const b = const_data<A>(inputs.b);
  const int64_t images = inputs.images(), positions = inputs.positions(), count = 2 * images * positions;
  if (2 * positions <= cuda::kBlockSortItems) {
    using Sort = BlockSort<cuda::ItemBits<A>>;
    launcher(inputs)(&cuda::block_sort_kernel<A, Sort>, images, cuda::kBlockSortThreads, Sort::kBytes, a, b, positions,
                     order);
    return;
  }
  using Key = cuda::SortKey<A>;
  DeviceMemory memory(inputs);
  Key* const keys = memory.allocate<Key>(2 * count);
  uint32_t* const items = memory.allocate<uint32_t>(count);
  const int64_t blocks = std::min<int64_t>((count + cuda::kSortKeyThreads - 1) / cuda::kSortKeyThreads, 1 << 20);
  launcher(inputs)(&cuda::sort_key_kernel<A>, blocks, cuda::kSortKeyThreads, 0, a, b, images, positions, keys, items);
  size_t bytes = 0;
  const auto sort = [&](void* workspace) {
    return cub::DeviceRadixSort::SortPairs(workspace, bytes, keys, keys + count, items, order, count, 0,
                                           cuda::kKeyBits<A> + cuda::image_bits(images),
                                           current_stream(inputs.g.get_device_index()));
  };
  DGCN_CUDA_CHECK(sort(nullptr));  // only computes `bytes`
  DGCN_CUDA_CHECK(sort(memory.allocate<char>(static_cast<int64_t>(bytes))));
}

template <typename T>
auto row_converter(const AffinityInputs& inputs, DeviceMemory& memory) {
  const auto allocate = [&memory](int64_t count) { return memory.allocate<T>(count); };
  return cuda::RowConverter<T, decltype(allocate), decltype(launcher(inputs))>(inputs.shape(), allocate,
                                                                               launcher(inputs));
}

/// A descending scan in `saved`, which must outlive it. Its features and results are still to be set.
template <typename T, typename A>
cuda::Scan<T, A> make_scan(const AffinityInputs& inputs, const AffinitySaved& saved, DeviceMemory& memory) {
  cuda::Scan<T, A> scan{};
  scan.sequence = {const_data<A>(inputs.a), const_data<A>(inputs.b), const_data<uint32_t>(saved.order),
                   inputs.positions()};
  scan.shape = inputs.shape();
  scan.chunks = cuda::chunks_of(inputs.positions());
  scan.chunk_states = {data<ScanState<double>>(saved.states), memory.allocate<double>(inputs.images() * scan.chunks)};
  return scan;
}

std::array<int64_t, 2> order_sizes(const AffinityInputs& inputs) { return {inputs.images(), 2 * inputs.positions()}; }

std::array<int64_t, 4> states_sizes(const AffinityInputs& inputs) {
  return {inputs.images(), cuda::chunks_of(inputs.positions()) + 1, inputs.channels(), 2};
}

Tensor new_states(const AffinityInputs& inputs) {
  return torch::stable::new_empty(inputs.g, states_sizes(inputs), ScalarType::Double);
}

AffinitySaved new_saved(const AffinityInputs& inputs) {
  return {torch::stable::new_empty(inputs.g, order_sizes(inputs), ScalarType::Int), new_states(inputs)};
}

void check_saved(const AffinityInputs& inputs, const AffinitySaved& saved) {
  const auto check = [&](const char* name, const Tensor& tensor, Sizes sizes, ScalarType dtype) {
    check_shape(name, tensor, sizes);
    check_dtype(name, tensor, dtype);
    check_contiguous(name, tensor);
    check_same_device(name, tensor, "g", inputs.g);
  };
  check("order", saved.order, order_sizes(inputs), ScalarType::Int);
  check("states", saved.states, states_sizes(inputs), ScalarType::Double);
}

void forward(const AffinityInputs& inputs, const Tensor& y, const AffinitySaved* wanted) {
  const DeviceGuard guard(inputs.g.get_device_index());
  for_dtype(inputs.g.scalar_type(), [&](auto types) {
    using T = typename decltype(types)::T;
    using A = typename decltype(types)::A;
    DeviceMemory memory(inputs);
    const auto rows = row_converter<T>(inputs, memory);
    const AffinitySaved saved = wanted != nullptr ? *wanted : new_saved(inputs);
    sort_items<A>(inputs, data<uint32_t>(saved.order));
    cuda::Scan<T, A> descending = make_scan<T, A>(inputs, saved, memory);
    descending.added = rows.input(const_view<T>(inputs.g));
    descending.values = rows.output(view<T>(y));
    cuda::start_scan(descending, false, launcher(inputs));
    cuda::finish_scan(descending, launcher(inputs));
    rows.copy_back(descending.values, view<T>(y));
  });
}

void backward(const AffinityInputs& inputs, const AffinitySaved* known, const Tensor& grad_y,
              const AffinityGradients& gradients) {
  if (known != nullptr) check_saved(inputs, *known);
  const DeviceGuard guard(inputs.g.get_device_index());
  for_dtype(inputs.g.scalar_type(), [&](auto types) {
    using T = typename decltype(types)::T;
    using A = typename decltype(types)::A;
    DeviceMemory memory(inputs);
    const auto rows = row_converter<T>(inputs, memory);
    const AffinitySaved saved = known != nullptr ? *known : new_saved(inputs);
    if (known == nullptr) sort_items<A>(inputs, data<uint32_t>(saved.order));
    const AffinitySaved for_ascending{saved.order, new_states(inputs)};  // outlives the scan, which only points to it
    cuda::Scan<T, A> ascending = make_scan<T, A>(inputs, for_ascending, memory);
    ascending.ascending = true;
    ascending.added = rows.input(const_view<T>(grad_y));
    if (gradients.need_keys) {
      cuda::Scan<T, A> descending = make_scan<T, A>(inputs, saved, memory);
      descending.last_image_first = true;
      descending.added = ascending.dotted = rows.input(const_view<T>(inputs.g));
      descending.dotted = ascending.added;
      descending.dots = data<A>(gradients.a);
      descending.opposite = ascending.chunk_states;
      if (known == nullptr) cuda::start_scan(descending, false, launcher(inputs));
      cuda::finish_scan(descending, launcher(inputs));
      ascending.dots = data<A>(gradients.b);
    }
    if (gradients.need_g) ascending.values = rows.output(view<T>(gradients.g));
    cuda::start_scan(ascending, gradients.need_keys, launcher(inputs));
    cuda::finish_scan(ascending, launcher(inputs));
    if (gradients.need_g) rows.copy_back(ascending.values, view<T>(gradients.g));
  });
}

}  // namespace

const AffinityBackend kCudaBackend{forward, backward, new_saved};

}  // namespace dgcn::nonlocal
