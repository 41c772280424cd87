// The decoder's peak memory on the worst fields, by counting all allocations of this program.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <utility>
#include <vector>

#include "check.h"
#include "pifpaf/decoder.h"

namespace {

std::atomic<std::size_t> in_use{0}, peak{0};
constexpr std::size_t kHeader = 64;  // keeps the alignment

void* allocate(std::size_t size) {
  auto* block = static_cast<char*>(std::malloc(size + kHeader));
  if (block == nullptr) throw std::bad_alloc();
  *reinterpret_cast<std::size_t*>(block) = size;
  peak = std::max(peak.load(), in_use += size);
  return block + kHeader;
}

void release(void* pointer) {
  if (pointer == nullptr) return;
  char* block = static_cast<char*>(pointer) - kHeader;
  in_use -= *reinterpret_cast<std::size_t*>(block);
  std::free(block);
}

}  // namespace

void* operator new(std::size_t size) { return allocate(size); }
void* operator new[](std::size_t size) { return allocate(size); }
// Used by std::stable_sort; without a definition here a sanitizer would add its own.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
void operator delete(void* pointer) noexcept { release(pointer); }
void operator delete[](void* pointer) noexcept { release(pointer); }
void operator delete(void* pointer, std::size_t) noexcept { release(pointer); }
void operator delete[](void* pointer, std::size_t) noexcept { release(pointer); }

using namespace dgcn::pifpaf;

namespace {

constexpr int kKeypoints = 17, kSide = 81, kStride = 8;
constexpr std::size_t kPlane = kSide * kSide;
const std::vector<std::pair<int, int>> kLimbs{{15, 13}, {13, 11}, {16, 14}, {14, 12}, {11, 12}, {5, 11}, {6, 12},
                                              {5, 6},   {5, 7},   {6, 8},   {7, 9},   {8, 10},  {1, 2},  {0, 1},
                                              {0, 2},   {1, 3},   {2, 4},   {3, 5},   {4, 6}};

/// Every cell has confidence 1 and the same scale [cells]; all point to cell (1, 1), or each to itself.
void test_peak(float scale, bool to_itself, bool force_complete) {
  std::vector<float> pif(kKeypoints * 5 * kPlane, 1.0F), paf(kLimbs.size() * 8 * kPlane, 1.0F);
  const auto fill = [&](std::vector<float>& fields, std::size_t components, std::size_t scales) {
    for (std::size_t i = 0; i < fields.size(); ++i) {
      const std::size_t component = i / kPlane % components, cell = i % kPlane;
      if (component >= components - scales) fields[i] = scale;
      if (component >= 2 && component < components - scales && to_itself)
        fields[i] = static_cast<float>(component % 2 == 0 ? cell % kSide : cell / kSide);
    }
  };
  fill(pif, 5, 1);
  fill(paf, 8, 2);
  DecoderConfig config;
  config.force_complete = force_complete;
  const Decoder decoder(Skeleton(kKeypoints, kLimbs), config);

  const std::size_t before = in_use;
  peak = before;
  const Persons persons =
      decoder.decode({pif.data(), paf.data(), kKeypoints, static_cast<int>(kLimbs.size()), kSide, kSide}, kStride);
  const std::size_t fields = sizeof(float) * (pif.size() + paf.size());
  constexpr std::size_t kPixels = ((kSide - 1) * kStride + 1) * ((kSide - 1) * kStride + 1);
  std::printf("scale %g, %s, force_complete %d: %zu persons, %.2f x the fields\n", static_cast<double>(scale),
              to_itself ? "each cell to itself" : "all to one place", force_complete ? 1 : 0, persons.size(),
              static_cast<double>(peak - before) / static_cast<double>(fields));
  CHECK(peak - before <= 4 * fields + sizeof(float) * kPixels);
  CHECK(persons.size() <= static_cast<std::size_t>(config.max_persons));
}

}  // namespace

int main() {
  test_peak(1.0F, false, true);
  test_peak(30.0F, false, false);
  test_peak(30.0F, true, true);
  test_peak(0.1F, true, true);
  return check_result();
}
