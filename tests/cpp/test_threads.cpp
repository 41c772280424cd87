// Eight threads share one decoder, for a thousand decodes each: each decode gives the persons of its own image. `make
// sanitize` runs this under ThreadSanitizer.
#include <thread>
#include <vector>

#include "check.h"
#include "pifpaf/decoder.h"
#include "scene.h"

using namespace dgcn::pifpaf;

namespace {

constexpr int kThreads = 8;
constexpr int kDecodes = 1000;
constexpr int kStride = 2;

Scene scene_of(int image) {
  Scene scene(3, {{0, 1}, {1, 2}}, 14 + image, 16);
  const auto offset = static_cast<float>(image) / 4;
  scene.paint({joint(2 + offset, 3), joint(6 + offset, 3.5F), joint(11, 2 + offset)});
  if (image % 2 == 0) scene.paint({joint(3, 10), joint(8, 10 - offset), joint(12, 10)});
  return scene;
}

void test_decode(const Decoder& decoder) {
  std::vector<Scene> scenes;
  std::vector<Persons> expected;
  for (int image = 0; image < kThreads; ++image) {
    scenes.push_back(scene_of(image));
    expected.push_back(decoder.decode(scenes.back().fields(), kStride));
    CHECK(expected.back().size() == (image % 2 == 0 ? 2U : 1U));
  }
  std::vector<int> wrong(kThreads, 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < kDecodes; ++i) {
        const auto image = static_cast<std::size_t>((t + i) % kThreads);
        const Persons persons = decoder.decode(scenes[image].fields(), kStride);
        wrong[static_cast<std::size_t>(t)] += same_bits(persons, expected[image]) ? 0 : 1;
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const int count : wrong) CHECK(count == 0);
}

void test_batches(const Decoder& decoder) {
  std::vector<Scene> scenes;
  std::vector<Fields> images;
  for (int image = 0; image < kThreads; ++image) scenes.push_back(scene_of(image));
  for (const Scene& scene : scenes) images.push_back(scene.fields());
  const std::vector<Persons> expected = decoder.decode_batch(images, kStride, 1);
  std::vector<std::thread> threads;
  std::vector<int> wrong(2, 0);
  for (int& count : wrong)
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) {
        const std::vector<Persons> persons = decoder.decode_batch(images, kStride, 3);
        for (std::size_t image = 0; image < images.size(); ++image)
          count += same_bits(persons[image], expected[image]) ? 0 : 1;
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const int count : wrong) CHECK(count == 0);
}

}  // namespace

int main() {
  for (const bool force_complete : {false, true}) {
    DecoderConfig config;
    config.force_complete = force_complete;
    const Decoder decoder(scene_of(0).skeleton(), config);
    test_decode(decoder);
    test_batches(decoder);
  }
  return check_result();
}
