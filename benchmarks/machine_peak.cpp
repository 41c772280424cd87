// What one core does at most: float32 multiplications-and-additions on registers, and copies of memory. CMakeLists.txt
// compiles this once per instruction set, into libraries that machine.py loads.
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
// Sums in flight: at least the latency of a multiply-add, 4 or 5 cycles, times those that start in one (2 on x86, up to
// 4 elsewhere); and fewer than there are registers, 16 or 32.
#if defined(__x86_64__)
constexpr int kSums = 12;
#else
constexpr int kSums = 16;
#endif
typedef float Vector __attribute__((vector_size(kVectorBytes)));

}  // namespace

extern "C" {

/// At least `flops` floating-point operations, a multiply-add being two. Returns how many.
int64_t multiply_add(int64_t flops) {
  constexpr int64_t kFlops = 2 * kSums * kVectorBytes / sizeof(float);  // of one iteration
  const int64_t iterations = (flops + kFlops - 1) / kFlops;
  volatile float one_half = 0.5f;  // a value that the compiler does not know
  const Vector half = Vector{} + one_half;
  Vector sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = Vector{} + static_cast<float>(i);
  for (int64_t iteration = 0; iteration < iterations; ++iteration)
    for (Vector& sum : sums) sum = sum * half + half;  // tends to 1: no subnormals, no overflow
  Vector total = {};
  for (const Vector& sum : sums) total += sum;
  volatile float result = total[0];  // keeps the loop
  static_cast<void>(result);
  return iterations * kFlops;
}

/// Copies `bytes` bytes, `times` times, through the caches as memcpy does.
void copy(char* to, const char* from, size_t bytes, int64_t times) {
  for (int64_t i = 0; i < times; ++i) {
    std::memcpy(to, from, bytes);
    asm volatile("" : : "r"(to) : "memory");  // keeps every one of the copies
  }
}

/// The same past the caches, so that no line is read only to be overwritten: what large copies need. Both aligned to
/// 16 bytes, `bytes` a multiple of 16.
void stream(char* to, const char* from, size_t bytes, int64_t times) {
#if defined(__SSE2__)
  for (int64_t i = 0; i < times; ++i)
    for (size_t offset = 0; offset < bytes; offset += sizeof(__m128))
      _mm_stream_ps(reinterpret_cast<float*>(to + offset), _mm_load_ps(reinterpret_cast<const float*>(from + offset)));
  _mm_sfence();
#else
  copy(to, from, bytes, times);
#endif
}
}
