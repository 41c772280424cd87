// The stored types, pixels and transposition of simd.h, for the instruction set that the compiler targets by default.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "common/simd.h"

namespace {

// The value of a finite binary16 or bfloat16 number, from the definition of its fields.
double value_of(uint32_t bits, int mantissa_bits, int bias) {
  const uint32_t exponent = (bits & 0x7fffu) >> mantissa_bits, mantissa = bits & ((1u << mantissa_bits) - 1);
  const double fraction = std::ldexp(static_cast<double>(mantissa), -mantissa_bits);
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, static_cast<int>(exponent) - bias);
  return bits & 0x8000u ? -magnitude : magnitude;
}

// For every number of the type: it has the value that its bits stand for, conversion to float and back does not change
// it, and the floats around it round to it, ties to even.
template <typename Stored>
void check_stored_type(int mantissa_bits, int bias) {
  const uint32_t infinity = 0x7fffu >> mantissa_bits << mantissa_bits;
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const Stored stored{static_cast<uint16_t>(bits)};
    const float value = dgcn::widen(stored);
    const uint32_t magnitude = bits & 0x7fffu;
    if (magnitude > infinity) {
      CHECK(std::isnan(value) && std::isnan(dgcn::widen(dgcn::convert<Stored>(value))));
      continue;
    }
    CHECK(dgcn::convert<Stored>(value).bits == bits);
    if (magnitude == infinity) {
      CHECK(std::isinf(value) && std::signbit(value) == (bits > 0x7fffu));
      continue;
    }
    CHECK(value == value_of(bits, mantissa_bits, bias));
    const double next = value_of(bits + 1, mantissa_bits, bias);  // away from zero, as if exponents had no limit
    const float half_way = static_cast<float>(value + (next - value) / 2);
    CHECK(dgcn::convert<Stored>(half_way).bits == bits + (bits & 1));
    CHECK(dgcn::convert<Stored>(std::nextafterf(half_way, 0)).bits == bits);
    CHECK(dgcn::convert<Stored>(std::nextafterf(half_way, std::copysign(INFINITY, half_way))).bits == bits + 1);
  }
}

template <typename T>
void check_transpose(int rows, int columns) {
  const int in_stride = columns + 3, out_stride = rows + 2;
  std::vector<T> in(rows * in_stride), out(columns * out_stride, dgcn::convert<T>(-1.0f));
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) in[r * in_stride + c] = dgcn::convert<T>(static_cast<float>(r * 16 + c));
  dgcn::transpose(in.data(), in_stride, out.data(), out_stride, rows, columns);
  for (int c = 0; c < columns; ++c)
    for (int r = 0; r < out_stride; ++r)
      CHECK(dgcn::widen(out[c * out_stride + r]) == (r < rows ? static_cast<float>(r * 16 + c) : -1.0f));
}

// A row of pixels loaded and stored: each pixel is in lane(pixel), converted as by convert().
template <typename Stored>
void check_pixels() {
  using P = dgcn::Pixels<Stored>;
  constexpr int kLanes = P::S::kLanes, kUnits = 2;
  const float values[] = {1, -2, 1.00390625f, 1.01171875f, 3e38f, INFINITY, NAN, 1e-40f, 65519, 65520, -0.0f, 6e-8f};
  constexpr int kValues = sizeof(values) / sizeof(*values);
  float vectors[kUnits * P::kUnit];
  Stored row[kUnits * P::kUnit];
  for (int shift = 0; shift < kValues; ++shift) {
    for (int unit = 0; unit < kUnits; ++unit) {
      typename P::S::Vector unit_vectors[P::kVectors];
      for (int pixel = 0; pixel < P::kUnit; ++pixel)
        vectors[unit * P::kUnit + P::lane(pixel)] = values[(unit * P::kUnit + pixel + shift) % kValues];
      for (int v = 0; v < P::kVectors; ++v) unit_vectors[v] = P::S::load(vectors + unit * P::kUnit + v * kLanes);
      P::store(row + unit * P::kUnit, unit_vectors);
    }
    for (int pixel = 0; pixel < kUnits * P::kUnit; ++pixel) {
      const Stored expected = dgcn::convert<Stored>(values[(pixel + shift) % kValues]);
      CHECK(std::memcmp(&row[pixel], &expected, sizeof(Stored)) == 0);
      float loaded[kLanes];
      const int unit = pixel / P::kUnit, lane = P::lane(pixel % P::kUnit);
      P::S::store(loaded, P::load(row, unit * P::kVectors + lane / kLanes));
      const float again = loaded[lane % kLanes];
      CHECK(again == dgcn::widen(expected) || (std::isnan(again) && std::isnan(dgcn::widen(expected))));
    }
  }
}

void check_relu() {
  using S = dgcn::Simd<float>;
  const float values[] = {-1, 2, NAN, -INFINITY, INFINITY, -0.0f, 1e-40f, -1e-40f};
  for (const float value : values) {
    float lanes[S::kLanes];
    S::store(lanes, S::relu(S::broadcast(value)));
    CHECK(std::isnan(value) ? std::isnan(lanes[0]) : lanes[0] == std::max(value, 0.0f));
  }
}

}  // namespace

int main() {
  check_stored_type<dgcn::Float16>(10, 15);
  check_stored_type<dgcn::BFloat16>(7, 127);
  for (const int rows : {1, 3, 4, 5, 8, 11})
    for (const int columns : {1, 4, 7, 13}) {
      check_transpose<double>(rows, columns);
      check_transpose<float>(rows, columns);
      check_transpose<dgcn::BFloat16>(rows, columns);
    }
  check_pixels<float>();
  check_pixels<dgcn::BFloat16>();
  check_pixels<dgcn::Float16>();
  check_relu();
  return check_result();
}
