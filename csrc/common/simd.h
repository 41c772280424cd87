// Vectors for the CPU kernels, on the vector extensions that GCC and Clang share, as wide as the instruction set that
// the source is compiled for. In an unnamed namespace, with few functions of the standard library: see
// instruction_set.h.
#pragma once

#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "common/dtypes.h"

namespace dgcn {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;  // SSE2, NEON
#endif

template <typename To, typename From>
inline To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  memcpy(&result, &value, sizeof(To));
  return result;
}

// ---- Stored types, one number at a time -----------------------------------------------------------------------------
// Without branches, so that the compiler vectorises the loops around them.

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

/// a[first], b[first], a[first + 1], b[first + 1], ...
template <int first, typename Vector, size_t... Lane>
inline Vector interleave(Vector a, Vector b, std::index_sequence<Lane...>) {
  constexpr int kLanes = sizeof...(Lane);
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, (first + Lane / 2 + Lane % 2 * kLanes)...);
#else
  typedef std::conditional_t<sizeof(a[0]) == 2, int16_t, std::conditional_t<sizeof(a[0]) == 4, int32_t, int64_t>> Index;
  typedef Index Indices __attribute__((vector_size(sizeof(Vector))));
  return __builtin_shuffle(a, b, Indices{static_cast<Index>(first + Lane / 2 + Lane % 2 * kLanes)...});
#endif
}

// ---- Vectors --------------------------------------------------------------------------------------------------------

/// Arithmetic on vectors of T, of `kBytes` bytes each.
template <typename T, int kBytes = kVectorBytes>
struct Simd {
  static constexpr int kLanes = kBytes / sizeof(T);
  typedef T Vector __attribute__((vector_size(kBytes)));

  static inline Vector load(const T* from) {
    Vector value;
    memcpy(&value, from, sizeof(Vector));
    return value;
  }
  static inline Vector broadcast(T value) { return value - Vector{}; }  // compiled to a broadcast, as x − 0 is x
  static inline void store(T* to, Vector value) { memcpy(to, &value, sizeof(Vector)); }

  /// max(value, 0), and NaN for NaN.
  static inline Vector relu(Vector value) { return Vector{} > value ? Vector{} : value; }

  /// Lane i is the sum of the lanes of vector(i), for i < kLanes. Recursive, for the `count` vectors first + i·step:
  /// the lanes of the result are partial sums of these vectors in turn. Of two such results with count / 2 vectors
  /// each, interleaving the halves and adding them makes one with `count` vectors.
  template <int count = kLanes, int first = 0, int step = 1, typename VectorAt>
  static inline __attribute__((always_inline)) Vector sums(const VectorAt& vector) {
    if constexpr (count == 1) {
      return vector(first);
    } else {
      constexpr auto kLaneSequence = std::make_index_sequence<kLanes>();
      const Vector even = sums<count / 2, first, 2 * step>(vector);
      const Vector odd = sums<count / 2, first + step, 2 * step>(vector);
      return interleave<0>(even, odd, kLaneSequence) + interleave<kLanes / 2>(even, odd, kLaneSequence);
    }
  }

  static inline T sum(Vector value) {
    // Through memory: extracting parts of a vector is not portable between compilers, and costs the same.
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

// ---- Pixels: stored types, a vector at a time -----------------------------------------------------------------------

/// Loads and stores a row of pixels as vectors of the accumulation type, in units of kVectors vectors: load(row, v) is
/// the v-th vector of the row. Within a unit, pixel p is in lane(p), counted through its vectors. That order matters
/// only to code that picks out single pixels, not to arithmetic per pixel nor to sums over all pixels.
template <typename Stored>
struct Pixels {
  using S = Simd<Stored>;
  static constexpr int kVectors = 1, kUnit = S::kLanes;

  static inline int lane(int pixel) { return pixel; }
  static inline typename S::Vector load(const Stored* row, int v) { return S::load(row + v * S::kLanes); }
  static inline void store(Stored* unit, const typename S::Vector* vectors) { S::store(unit, *vectors); }
};

/// The first vector of a unit holds the even pixels and the second the odd ones, the low and high halves of 32-bit
/// words. In their natural order they would have to be shuffled: forward takes 14 % longer with AVX2, 36 % with
/// AVX-512.
template <>
struct Pixels<BFloat16> {
  using S = Simd<float>;
  typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));
  static constexpr int kVectors = 2, kUnit = 2 * S::kLanes;

  static inline int lane(int pixel) { return pixel % 2 * S::kLanes + pixel / 2; }
  static inline typename S::Vector load(const BFloat16* row, int v) {
    Words words;
    memcpy(&words, row + v / 2 * kUnit, sizeof(Words));
    return bit_cast<typename S::Vector>(v % 2 == 0 ? words << 16 : words & 0xffff0000u);
  }
  static inline void store(BFloat16* unit, const typename S::Vector* vectors) {
    const Words words = (rounded(vectors[0]) >> 16) | (rounded(vectors[1]) & 0xffff0000u);
    memcpy(unit, &words, sizeof(Words));
  }

 private:
  /// The high half rounded to nearest even, as in convert<BFloat16>.
  static inline Words rounded(typename S::Vector value) {
    const Words bits = bit_cast<Words>(value);
    return value != value ? Words{} + 0x7fc00000u : bits + ((bits >> 16 & 1u) + 0x7fffu);
  }
};

template <>
struct Pixels<Float16> {
  using S = Simd<float>;
  static constexpr int kVectors = 1, kUnit = S::kLanes;

  static inline int lane(int pixel) { return pixel; }
  static inline typename S::Vector load(const Float16* row, int v) {
    const Float16* from = row + v * S::kLanes;
#if defined(__AVX512F__)  // masked: GCC 12 warns about its own unmasked intrinsics
    return bit_cast<typename S::Vector>(
        _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__F16C__)
    return bit_cast<typename S::Vector>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else
    float lanes[S::kLanes];
    for (int lane = 0; lane < S::kLanes; ++lane) lanes[lane] = widen(from[lane]);
    return S::load(lanes);
#endif
  }
  static inline void store(Float16* unit, const typename S::Vector* vectors) {
#if defined(__AVX512F__)
    const __m256i halves = _mm512_maskz_cvtps_ph(0xffff, bit_cast<__m512>(*vectors), _MM_FROUND_TO_NEAREST_INT);
    memcpy(unit, &halves, sizeof(halves));
#elif defined(__F16C__)
    const __m128i halves = _mm256_cvtps_ph(bit_cast<__m256>(*vectors), _MM_FROUND_TO_NEAREST_INT);
    memcpy(unit, &halves, sizeof(halves));
#else
    float lanes[S::kLanes];
    S::store(lanes, *vectors);
    for (int lane = 0; lane < S::kLanes; ++lane) unit[lane] = convert<Float16>(lanes[lane]);
#endif
  }
};

// ---- Transposition and copies ---------------------------------------------------------------------------------------

/// Transposes a square of elements in registers: at most 8 × 8 elements, 32 bytes a side. A larger one would not fit.
template <typename T>
struct Square {
  static constexpr int kBytes = kVectorBytes == 16 || sizeof(T) == 2 ? 16 : 32;
  static constexpr int kSide = kBytes / sizeof(T);
  typedef std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>> Bits;
  typedef Bits Vector __attribute__((vector_size(kBytes)));

  /// out[c·out_stride + r] = in[r·in_stride + c]. Interleaving the first half of the rows with the second half moves
  /// the top bit of an element's row number to the bottom of its column number; after as many steps as there are bits,
  /// rows and columns are exchanged. Unrolled: otherwise GCC 12 keeps the rows in memory with AVX2, at five times the
  /// cost.
  static inline void transpose(const T* in, int64_t in_stride, T* out, int64_t out_stride) {
    constexpr auto kLaneSequence = std::make_index_sequence<kSide>();
    Vector rows[kSide];
#pragma GCC unroll 8
    for (int r = 0; r < kSide; ++r) memcpy(&rows[r], in + r * in_stride, kBytes);
#pragma GCC unroll 8
    for (int bit = 1; bit < kSide; bit *= 2) {
      Vector next[kSide];
#pragma GCC unroll 8
      for (int r = 0; r < kSide / 2; ++r) {
        next[2 * r] = interleave<0>(rows[r], rows[r + kSide / 2], kLaneSequence);
        next[2 * r + 1] = interleave<kSide / 2>(rows[r], rows[r + kSide / 2], kLaneSequence);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kSide; ++r) rows[r] = next[r];
    }
#pragma GCC unroll 8
    for (int r = 0; r < kSide; ++r) memcpy(out + r * out_stride, &rows[r], kBytes);
  }
};

/// out[c·out_stride + r] = in[r·in_stride + c] for all r < rows and c < columns.
template <typename T>
void transpose(const T* in, int64_t in_stride, T* out, int64_t out_stride, int64_t rows, int64_t columns) {
  constexpr int kSide = Square<T>::kSide;
  if (rows < kSide || columns < kSide) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) out[c * out_stride + r] = in[r * in_stride + c];
    return;
  }
  for (int64_t row = 0; row < rows; row += kSide)
    for (int64_t column = 0; column < columns; column += kSide) {
      // The last squares overlap those before them.
      const int64_t r = row < rows - kSide ? row : rows - kSide,
                    c = column < columns - kSide ? column : columns - kSide;
      Square<T>::transpose(in + r * in_stride + c, in_stride, out + c * out_stride + r, out_stride);
    }
}

/// to[r·to_row + c·to_column] = from[r·from_row + c·from_column] for all r < rows and c < columns.
template <typename T>
void copy_matrix(const T* from, int64_t from_row, int64_t from_column, T* to, int64_t to_row, int64_t to_column,
                 int64_t rows, int64_t columns) {
  if (from_column == 1 && to_column == 1) {
    for (int64_t r = 0; r < rows; ++r) memcpy(to + r * to_row, from + r * from_row, columns * sizeof(T));
  } else if (from_row == 1 && to_column == 1) {
    transpose(from, from_column, to, to_row, columns, rows);
  } else if (from_column == 1 && to_row == 1) {
    transpose(from, from_row, to, to_column, rows, columns);
  } else {
    for (int64_t c = 0; c < columns; ++c)
      for (int64_t r = 0; r < rows; ++r) to[r * to_row + c * to_column] = from[r * from_row + c * from_column];
  }
}

// ---- Memory ---------------------------------------------------------------------------------------------------------

/// Uninitialised memory, aligned to cache lines.
template <typename Element>
class AlignedArray {
 public:
  explicit AlignedArray(int64_t size)
      : data_(static_cast<Element*>(operator new(size * sizeof(Element), kCacheLine))) {}
  ~AlignedArray() { operator delete(data_, kCacheLine); }
  AlignedArray(const AlignedArray&) = delete;
  AlignedArray& operator=(const AlignedArray&) = delete;

  Element* data() const { return data_; }

 private:
  static constexpr std::align_val_t kCacheLine{64};

  Element* data_;
};

}  // namespace
}  // namespace dgcn
