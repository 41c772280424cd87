// The non-local layer on CUDA: the operators, the sort, and the rows. The kernels are in kernels.cuh.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cub/device/device_radix_sort.cuh>
#include <vector>

#include "common/cuda_utils.h"
#include "nonlocal/cuda/kernels.cuh"
#include "nonlocal/cuda/rows.cuh"
#include "nonlocal/operator.h"
#include "registration.h"

namespace dgcn::nonlocal {
namespace {

template <typename T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

template <typename T>
const T* const_data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

/// The way in which all kernels of a call are launched.
auto launcher(const Inputs& inputs) {
  return [device = inputs.g.get_device_index()](auto kernel, int64_t blocks, int threads, int64_t shared_bytes,
                                                const auto&... arguments) {
    launch_plain(kernel, blocks, threads, shared_bytes, device, arguments...);
  };
}

/// Memory on the device of g, which its stream may use.
class Memory {
 public:
  explicit Memory(const Inputs& inputs) : like_(inputs.g) {}

  /// `count` elements of T that live as long as this.
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
const uint32_t* sort_items(const Inputs& inputs, Memory& memory) {
  using Key = cuda::SortKey<A>;
  const int64_t count = 2 * inputs.images() * inputs.positions();
  uint32_t* const items = memory.allocate<uint32_t>(2 * count);
  Memory passing(inputs);
  Key* const keys = passing.allocate<Key>(2 * count);
  const int64_t blocks = std::min<int64_t>((count + cuda::kItemThreads - 1) / cuda::kItemThreads, 1 << 20);
  launcher(inputs)(&cuda::item_kernel<A>, blocks, cuda::kItemThreads, 0, const_data<A>(inputs.a),
                   const_data<A>(inputs.b), inputs.images(), inputs.positions(), keys, items);

  cub::DoubleBuffer<Key> sorted_keys(keys, keys + count);
  cub::DoubleBuffer<uint32_t> sorted_items(items, items + count);
  size_t bytes = 0;
  const auto sort = [&](void* workspace) {
    return cub::DeviceRadixSort::SortPairs(workspace, bytes, sorted_keys, sorted_items, count, 0,
                                           cuda::kRankBits<A> + cuda::image_bits(inputs.images()),
                                           current_stream(inputs.g.get_device_index()));
  };
  STD_CUDA_CHECK(sort(nullptr));  // how many bytes it needs
  STD_CUDA_CHECK(sort(passing.allocate<char>(static_cast<int64_t>(bytes))));
  return sorted_items.Current();
}

/// The rows of features, of which those whose channels are neighbours in memory consist already.
template <typename T>
class Rows {
 public:
  Rows(const Inputs& inputs, Memory& memory) : inputs_(inputs), memory_(memory) {}

  Features<const T> read(const Tensor& tensor) {
    const Features<const T> features = nonlocal::read<T>(tensor);
    if (are_rows(features)) return features;
    const Features<T> rows = allocate();
    cuda::transpose(features, rows, inputs_.shape(), true, false, launcher(inputs_));
    return constant(rows);
  }

  /// For what finish() takes to `tensor`.
  Features<T> write(const Tensor& tensor) {
    const Features<T> features = nonlocal::write<T>(tensor);
    return are_rows(features) ? features : allocate();
  }

  /// `course` is the one that wrote them.
  template <typename A>
  void finish(const Tensor& tensor, const cuda::Course<T, A>& course) {
    const Features<T> features = nonlocal::write<T>(tensor);
    if (features.data != course.values.data)
      cuda::transpose(constant(course.values), features, inputs_.shape(), false, !course.from_the_last,
                      launcher(inputs_));
  }

 private:
  template <typename Stored>
  bool are_rows(const Features<Stored>& features) const {
    return features.channel_stride == 1 || inputs_.channels() == 1;
  }

  static Features<const T> constant(const Features<T>& rows) {
    return {rows.data, rows.image_stride, rows.channel_stride, rows.position_stride};
  }

  Features<T> allocate() {
    const auto [images, channels, positions] = inputs_.shape();
    return {memory_.allocate<T>(images * channels * positions), channels * positions, 1, channels};
  }

  const Inputs& inputs_;
  Memory& memory_;
};

/// The walk down the sequences, which are sorted; what it is to do is still to come.
template <typename T, typename A>
cuda::Course<T, A> make_course(const Inputs& inputs, Memory& memory) {
  cuda::Course<T, A> course{};
  course.sequence = {const_data<A>(inputs.a), const_data<A>(inputs.b), sort_items<A>(inputs, memory),
                     inputs.positions()};
  course.shape = inputs.shape();
  course.chunks = cuda::chunks_of(inputs.positions());
  return course;
}

cuda::States make_states(const Inputs& inputs, Memory& memory) {
  const int64_t chunks = cuda::chunks_of(inputs.positions());
  return {memory.allocate<Walk<double>>(inputs.images() * (chunks + 1) * inputs.channels()),
          memory.allocate<double>(inputs.images() * chunks)};
}

Tensor relu_affinity_forward(const Tensor& a, const Tensor& b, const Tensor& g) {
  const Inputs inputs{a, b, g};
  inputs.check();
  const Tensor y = torch::stable::empty_like(g);
  if (y.numel() == 0) return y;

  const DeviceGuard guard(g.get_device_index());
  with_types(g.scalar_type(), [&](auto types) {
    using T = typename decltype(types)::T;
    using A = typename decltype(types)::A;
    Memory memory(inputs);
    Rows<T> rows(inputs, memory);
    cuda::Course<T, A> down = make_course<T, A>(inputs, memory);
    down.taken = rows.read(g);
    down.values = rows.write(y);
    down.states = make_states(inputs, memory);
    cuda::walk(down, false, launcher(inputs));
    rows.finish(y, down);
  });
  return y;
}

std::tuple<Tensor, Tensor, Tensor> relu_affinity_backward(const Tensor& grad_y, const Tensor& a, const Tensor& b,
                                                          const Tensor& g, bool need_keys, bool need_g) {
  const Inputs inputs{a, b, g};
  inputs.check();
  inputs.check_grad_y(grad_y);
  Gradients gradients(inputs, need_keys, need_g);
  if (g.numel() == 0)
    for (Tensor* gradient : {&gradients.a, &gradients.b}) torch::stable::zero_(*gradient);
  if (g.numel() == 0 || !(need_keys || need_g)) return {gradients.a, gradients.b, gradients.g};

  const DeviceGuard guard(g.get_device_index());
  with_types(g.scalar_type(), [&](auto types) {
    using T = typename decltype(types)::T;
    using A = typename decltype(types)::A;
    Memory memory(inputs);
    Rows<T> rows(inputs, memory);
    cuda::Course<T, A> up = make_course<T, A>(inputs, memory);
    up.up = true;
    up.taken = rows.read(grad_y);
    up.states = make_states(inputs, memory);
    if (need_keys) {
      cuda::Course<T, A> down = up;
      down.up = false;
      down.taken = up.stopped = rows.read(g);
      down.stopped = up.taken;
      down.dots = data<A>(gradients.a);
      down.states = make_states(inputs, memory);
      down.opposite = up.states;
      cuda::walk(down, false, launcher(inputs));
      up.from_the_last = true;
      up.dots = data<A>(gradients.b);
    }
    if (need_g) up.values = rows.write(gradients.g);
    cuda::walk(up, need_keys, launcher(inputs));
    if (need_g) rows.finish(gradients.g, up);
  });
  return {gradients.a, gradients.b, gradients.g};
}

STABLE_TORCH_LIBRARY_IMPL(dgcn, CUDA, m) {
  if (!owns_operators()) return;
  m.impl("relu_affinity_forward", TORCH_BOX(&relu_affinity_forward));
  m.impl("relu_affinity_backward", TORCH_BOX(&relu_affinity_backward));
}

}  // namespace
}  // namespace dgcn::nonlocal
