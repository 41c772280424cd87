// The stored types and the transposition of simd.h, for the instruction set that the compiler targets by default.
#include <cmath>
#include <vector>

#include "check.h"
#include "simd.h"

namespace {

struct Isa {
  static constexpr int kVectorBytes = 16;
};

// The value of a finite binary16 or bfloat16 number, from the definition of its fields.
double value_of(uint32_t bits, int mantissa_bits, int bias) {
  const uint32_t exponent = (bits & 0x7fffu) >> mantissa_bits, mantissa = bits & ((1u << mantissa_bits) - 1);
  const double fraction = std::ldexp(static_cast<double>(mantissa), -mantissa_bits);
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, static_cast<int>(exponent) - bias);
  return bits & 0x8000u ? -magnitude : magnitude;
}

// Every number of the type survives the way to float and back, has the value of its fields, and is what the numbers
// around it round to: a tie with the next one to the even of the two.
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
    const double next =
        value_of(bits + 1, mantissa_bits, bias);  // away from zero; of the largest: where infinity begins
    const float half_way = static_cast<float>(value + (next - value) / 2);
    CHECK(dgcn::convert<Stored>(half_way).bits == bits + (bits & 1));
    CHECK(dgcn::convert<Stored>(std::nextafterf(half_way, 0)).bits == bits);
    CHECK(dgcn::convert<Stored>(std::nextafterf(half_way, std::copysign(INFINITY, half_way))).bits == bits + 1);
  }
}

template <typename In, typename Out>
void check_transpose(int rows, int columns) {
  const int in_stride = columns + 3, out_stride = rows + 2;
  std::vector<In> in(rows * in_stride);
  std::vector<Out> out(columns * out_stride, dgcn::convert<Out>(-1.0f));
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) in[r * in_stride + c] = dgcn::convert<In>(static_cast<float>(r * 16 + c));
  dgcn::transpose<Isa>(in.data(), in_stride, out.data(), out_stride, rows, columns);
  for (int c = 0; c < columns; ++c)
    for (int r = 0; r < out_stride; ++r)
      CHECK(dgcn::widen(out[c * out_stride + r]) == (r < rows ? static_cast<float>(r * 16 + c) : -1.0f));
}

}  // namespace

int main() {
  check_stored_type<dgcn::Float16>(10, 15);
  check_stored_type<dgcn::BFloat16>(7, 127);
  for (const int rows : {1, 3, 4, 5, 8, 11})
    for (const int columns : {1, 4, 7, 13}) {
      check_transpose<float, float>(rows, columns);
      check_transpose<float, dgcn::BFloat16>(rows, columns);
      check_transpose<dgcn::Float16, float>(rows, columns);
    }
  return check_result();
}
