// Vectors for the CPU kernels, on the vector extensions that GCC and Clang share. Included only by files that are
// compiled for one instruction set, which give
//
//   struct Isa {
//     static constexpr int kVectorBytes;  // width of a SIMD register
//   };
//
// Everything here is in an unnamed namespace: two such files must never share the machine code of one function. For the
// same reason nothing of the standard library is used that could leave an out-of-line copy.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "stored_types.h"

namespace dgcn {
namespace {

template <typename To, typename From>
inline To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}

// ---- Stored types ---------------------------------------------------------------------------------------------------
// Branch-free, so that the compiler vectorises the loops around them.

inline float widen(float value) { return value; }
inline double widen(double value) { return value; }
inline float widen(BFloat16 value) { return bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }
inline float widen(Float16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fffu) << 13;
  const uint32_t finite = bit_cast<uint32_t>(bit_cast<float>(magnitude) * 0x1p112f);  // moves the exponent's bias
  return bit_cast<float>(sign | (magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : finite));
}

template <typename Out, typename In>
inline Out convert(In value) {
  return widen(value);
}
template <>
inline BFloat16 convert<BFloat16>(float value) {  // round to nearest even
  const uint32_t bits = bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return {static_cast<uint16_t>(value != value ? 0x7fc0u : rounded)};
}
template <>
inline Float16 convert<Float16>(float value) {  // round to nearest even
  const uint32_t bits = bit_cast<uint32_t>(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  // Adding 0.5 leaves a subnormal's bits, rounded by the addition itself, in the low end of the mantissa.
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - bit_cast<uint32_t>(0.5f);
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  return {static_cast<uint16_t>(sign | (magnitude >= 0x47800000u ? special : finite))};
}

template <typename In, typename Out>
inline void convert_row(const In* in, Out* out, int64_t count) {
  for (int64_t i = 0; i < count; ++i) out[i] = convert<Out>(in[i]);
}

#if defined(__F16C__)
inline void convert_row(const Float16* in, float* out, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
  for (; i < count; ++i) out[i] = widen(in[i]);
}

inline void convert_row(const float* in, Float16* out, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < count; ++i) out[i] = convert<Float16>(in[i]);
}
#endif

// ---- Vectors --------------------------------------------------------------------------------------------------------

template <typename T, class Isa>
struct Simd {
  static constexpr int kLanes = Isa::kVectorBytes / sizeof(T);
  typedef T Vector __attribute__((vector_size(Isa::kVectorBytes)));

  static inline Vector load(const T* from) {
    Vector value;
    memcpy(&value, from, sizeof(Vector));
    return value;
  }
  static inline Vector broadcast(T value) { return value - Vector{}; }  // "-" as x - 0 is x: no instruction
  static inline void store(T* to, Vector value) { memcpy(to, &value, sizeof(Vector)); }

  /// Keeps the compiler from loading the value anew for each of its uses.
  static inline void keep_in_register([[maybe_unused]] Vector& value) {
#if defined(__x86_64__)
    asm("" : "+v"(value));
#endif
  }

  /// Calls `body(pixel)` for vectors that cover [0, pixels), of which there is at least one vector's worth: the last
  /// one overlaps its neighbour.
  template <typename Body>
  static inline void for_each(int64_t pixels, Body body) {
    int64_t pixel = 0;
    for (; pixel + kLanes <= pixels; pixel += kLanes) body(pixel);
    if (pixel < pixels) body(pixels - kLanes);
  }

  /// The same for sums: `body(pixel, once)`, where `once(vector)` zeroes the lanes that the neighbour has counted.
  template <typename Body>
  static inline __attribute__((always_inline)) void for_each_once(int64_t pixels, Body body) {
    int64_t pixel = 0;
    for (; pixel + kLanes <= pixels; pixel += kLanes) body(pixel, [](Vector value) { return value; });
    if (pixel == pixels) return;
    T fresh[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) fresh[lane] = lane < kLanes - (pixels - pixel) ? T(0) : T(1);
    const Vector mask = load(fresh);
    body(pixels - kLanes, [mask](Vector value) { return mask > T(0) ? value : Vector{}; });
  }

  static inline T sum(Vector value) {
    // By way of memory: shuffles of a vector's parts are not portable between compilers, and cost the same.
    typedef T Part __attribute__((vector_size(16)));
    T lanes[kLanes];
    store(lanes, value);
    Part total;
    memcpy(&total, lanes, sizeof(Part));
    for (int lane = sizeof(Part) / sizeof(T); lane < kLanes; lane += sizeof(Part) / sizeof(T)) {
      Part part;
      memcpy(&part, lanes + lane, sizeof(Part));
      total += part;
    }
    if constexpr (sizeof(T) == 4) return (total[0] + total[1]) + (total[2] + total[3]);
    return total[0] + total[1];
  }
};

// ---- Transposition --------------------------------------------------------------------------------------------------

/// A square of elements in registers, of 32 bytes a side at most: a wider one needs more registers than there are.
template <typename T, class Isa>
struct Square {
  static constexpr int kBytes = Isa::kVectorBytes < 32 ? Isa::kVectorBytes : 32;
  static constexpr int kSide = kBytes / sizeof(T);
  typedef T Vector __attribute__((vector_size(kBytes)));

  /// The lanes of a and b by turns, from lane `first` on.
  template <int first, size_t... Lane>
  static inline Vector interleave(Vector a, Vector b, std::index_sequence<Lane...>) {
#if defined(__clang__) || __GNUC__ >= 12
    return __builtin_shufflevector(a, b, (first + Lane / 2 + Lane % 2 * kSide)...);
#else
    typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Index __attribute__((vector_size(kBytes)));
    return __builtin_shuffle(a, b, Index{(first + Lane / 2 + Lane % 2 * kSide)...});
#endif
  }

  /// out[c·out_stride + r] = in[r·in_stride + c]. Interleaving the two halves of the rows moves the top bit of an
  /// element's row number to the bottom of its column number; once for each bit, and rows and columns have changed
  /// places.
  static inline void transpose(const T* in, int64_t in_stride, T* out, int64_t out_stride) {
    constexpr auto lanes = std::make_index_sequence<kSide>();
    Vector rows[kSide];
    for (int r = 0; r < kSide; ++r) memcpy(&rows[r], in + r * in_stride, kBytes);
    for (int bit = 1; bit < kSide; bit *= 2) {
      Vector next[kSide];
      for (int r = 0; r < kSide / 2; ++r) {
        next[2 * r] = interleave<0>(rows[r], rows[r + kSide / 2], lanes);
        next[2 * r + 1] = interleave<kSide / 2>(rows[r], rows[r + kSide / 2], lanes);
      }
      for (int r = 0; r < kSide; ++r) rows[r] = next[r];
    }
    for (int r = 0; r < kSide; ++r) memcpy(out + r * out_stride, &rows[r], kBytes);
  }
};

/// out[c·out_stride + r] = in[r·in_stride + c], converted, for all r < rows and c < columns.
template <class Isa, typename In, typename Out>
void transpose(const In* in, int64_t in_stride, Out* out, int64_t out_stride, int64_t rows, int64_t columns) {
  using T = decltype(widen(In{}));
  using S = Square<T, Isa>;
  constexpr int kSide = S::kSide;
  if (rows < kSide || columns < kSide) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) out[c * out_stride + r] = convert<Out>(in[r * in_stride + c]);
    return;
  }
  for (int64_t row = 0; row < rows; row += kSide)
    for (int64_t column = 0; column < columns; column += kSide) {
      // The last squares overlap their neighbours.
      const int64_t r = row < rows - kSide ? row : rows - kSide,
                    c = column < columns - kSide ? column : columns - kSide;
      const In* from = in + r * in_stride + c;
      Out* to = out + c * out_stride + r;
      if constexpr (std::is_same_v<In, Out>) {
        S::transpose(from, in_stride, to, out_stride);
      } else if constexpr (std::is_same_v<Out, T>) {
        T square[kSide * kSide];
        for (int i = 0; i < kSide; ++i) convert_row(from + i * in_stride, square + i * kSide, kSide);
        S::transpose(square, kSide, to, out_stride);
      } else {
        T square[kSide * kSide];
        S::transpose(from, in_stride, square, kSide);
        for (int i = 0; i < kSide; ++i) convert_row(square + i * kSide, to + i * out_stride, kSide);
      }
    }
}

}  // namespace
}  // namespace dgcn
