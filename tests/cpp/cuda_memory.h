// The memory of tensors for CUDA kernels that run on the host, guarded and poisoned, and the types of their elements.
#pragma once

#include "cuda_on_host.h"

/// The part of bfloat16 that the kernels use.
struct Bfloat16 {
  uint16_t bits;

  Bfloat16() = default;
  explicit Bfloat16(float value) {
    uint32_t word;
    std::memcpy(&word, &value, 4);
    bits = static_cast<uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16);
  }
  operator float() const {
    const uint32_t word = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
  }
};

/// The functions of graph_conv/cuda/tensor_cores.cuh: all lanes of a warp call them.
static inline void load_matrices(uint32_t (&parts)[4], const void* row) {
  const auto* const* const rows = cuda_on_host::exchange(row);  // of the warp
  CHECK(reinterpret_cast<uintptr_t>(row) % 16 == 0 && cuda_on_host::is_shared(row));
  const unsigned lane = threadIdx.x % 32;
  for (unsigned i = 0; i < 4; ++i)
    std::memcpy(&parts[i], static_cast<const char*>(rows[8 * i + lane / 4]) + lane % 4 * 4, 4);
}

static inline void multiply_add(float (&sums)[4], const uint32_t (&a)[4], const uint32_t* b, const Bfloat16*) {
  struct Parts {
    Bfloat16 a[4][2], b[2][2];
  } own;
  std::memcpy(own.a, a, sizeof own.a);
  std::memcpy(own.b, b, sizeof own.b);
  const Parts* const lanes = cuda_on_host::exchange(own);
  for (unsigned e = 0; e < 4; ++e) {
    const unsigned row = threadIdx.x % 32 / 4, half = e / 2, column = threadIdx.x % 4 * 2 + e % 2;
    double sum = sums[e];
    for (unsigned k = 0; k < 16; ++k)  // of row row + 8·half of a and of `column` of b
      sum +=
          double{lanes[row * 4 + k % 8 / 2].a[half + k / 8 * 2][k % 2]} * lanes[column * 4 + k % 8 / 2].b[k / 8][k % 2];
    sums[e] = static_cast<float>(sum);  // truncated
    if (std::fabs(sums[e]) > std::fabs(sum)) sums[e] = std::nextafter(sums[e], 0.0F);
  }
}

using Values = std::vector<double>;

/// A tensor in memory, with guards on both sides and filled with NaN; optionally one element off a 16-byte boundary.
template <typename T>
class Buffer {
 public:
  Buffer(size_t size, bool aligned = true)
      : memory_(size + 2 * kGuard), size_(size), offset_(kGuard + (aligned ? 0 : 1)) {
    while (reinterpret_cast<uintptr_t>(&memory_[offset_]) % 16 != (aligned ? 0 : sizeof(T))) ++offset_;
    std::memset(static_cast<void*>(memory_.data()), cuda_on_host::kPoison, memory_.size() * sizeof(T));
  }
  explicit Buffer(const Values& values, bool aligned = true) : Buffer(values.size(), aligned) {
    for (size_t e = 0; e < size_; ++e) data()[e] = static_cast<T>(values[e]);
  }

  T* data() { return &memory_[offset_]; }
  Values values() { return Values(data(), data() + size_); }
  bool guards_intact() const {
    const auto* bytes = reinterpret_cast<const unsigned char*>(memory_.data());
    const auto poisoned = [](unsigned char byte) { return byte == cuda_on_host::kPoison; };
    return std::all_of(bytes, bytes + offset_ * sizeof(T), poisoned) &&
           std::all_of(bytes + (offset_ + size_) * sizeof(T), bytes + memory_.size() * sizeof(T), poisoned);
  }

 private:
  static constexpr size_t kGuard = 64;
  std::vector<T> memory_;
  size_t size_, offset_;
};
