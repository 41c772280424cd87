// Finds the persons in pictures: find_persons MODEL.onnx PICTURE... prints a line of JSON for each picture.
//
// MODEL.onnx is what `dgcn export` writes. It takes the pixels of a picture and gives the decoder's fields. A JSON
// document in it has all else that is needed: keypoints, limbs, stride, long edge, constants of the decoder.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "pifpaf/decoder.h"

using nlohmann::json;
namespace pifpaf = dgcn::pifpaf;

namespace {

/// The picture as the network takes it, and how many of its pixels a pixel of the picture has become.
struct Canvas {
  cv::Mat pixels;  // BGR
  double scale;
};

/// Scales a picture and pads it at the right and at the bottom. The centre of its first pixel stays where it is.
Canvas scale_pad(const cv::Mat& picture, double scale, cv::Size size) {
  const cv::Scalar mean_colour(104, 116, 124);
  cv::Mat source = picture;
  cv::Matx23d matrix(scale, 0, 0, 0, scale, 0);
  if (scale < 1) {
    // Pixels are averaged first, since bilinear sampling would skip some. INTER_AREA keeps their edges in place, not
    // the centre of the first: the matrix takes up the difference.
    const cv::Size smaller(std::max(1, cvRound(picture.cols * scale)), std::max(1, cvRound(picture.rows * scale)));
    cv::resize(picture, source, smaller, 0, 0, cv::INTER_AREA);
    const double x = static_cast<double>(picture.cols) / smaller.width;
    const double y = static_cast<double>(picture.rows) / smaller.height;
    matrix = {scale * x, 0, scale * (x - 1) / 2, 0, scale * y, scale * (y - 1) / 2};
  }
  Canvas canvas{cv::Mat(), scale};
  cv::warpAffine(source, canvas.pixels, matrix, size, cv::INTER_LINEAR, cv::BORDER_CONSTANT, mean_colour);
  return canvas;
}

/// An exported model together with its decoder.
class Model {
 public:
  explicit Model(const std::filesystem::path& path) : session_(env_, path.c_str(), Ort::SessionOptions()) {
    Ort::AllocatorWithDefaultOptions allocator;
    const auto text = session_.GetModelMetadata().LookupCustomMetadataMapAllocated("dgcn", allocator);
    if (!text) throw std::invalid_argument(path.string() + " was not written by dgcn export");
    document_ = json::parse(text.get());
    input_shape_ = session_.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
  }

  const json& skeleton() const { return document_["config"]["skeleton"]; }

  pifpaf::Decoder make_decoder() const {
    pifpaf::DecoderConfig config;
    const json options = document_["metadata"].value("decoder", json::object());
    pifpaf::visit_options([&](const char* name, auto option, auto, auto) {
      if (options.contains(name)) options[name].get_to(config.*option);
    });
    const auto limbs = skeleton()["limbs"].get<std::vector<std::pair<int, int>>>();
    return {pifpaf::Skeleton(static_cast<int>(skeleton()["keypoints"].size()), limbs), config};
  }

  /// The picture as this model takes it: of the size that it was exported for, else with the long edge that its
  /// metadata names, and padded until both edges have 16 n + 1 pixels.
  Canvas canvas(const cv::Mat& picture) const {
    const double width = std::max(1, picture.cols - 1), height = std::max(1, picture.rows - 1);  // first to last centre
    if (input_shape_[2] > 0 && input_shape_[3] > 0) {
      const cv::Size size(static_cast<int>(input_shape_[3]), static_cast<int>(input_shape_[2]));
      return scale_pad(picture, std::min((size.width - 1) / width, (size.height - 1) / height), size);
    }
    const double scale = (document_["metadata"].value("long_edge", 513) - 1) / std::max(width, height);
    const auto padded = [scale](int pixels) {
      return std::max(1, static_cast<int>(std::ceil(std::round((pixels - 1) * scale) / 16))) * 16 + 1;
    };
    return scale_pad(picture, scale, cv::Size(padded(picture.cols), padded(picture.rows)));
  }

  pifpaf::Persons find(const pifpaf::Decoder& decoder, const cv::Mat& canvas) {
    // uint8 [1, 3, H, W] RGB
    const std::array<std::int64_t, 4> shape{1, 3, canvas.rows, canvas.cols};
    std::vector<std::uint8_t> pixels(canvas.total() * 3);
    std::vector<cv::Mat> planes;
    for (const std::size_t plane : {2, 1, 0})
      planes.emplace_back(canvas.size(), CV_8U, &pixels[plane * canvas.total()]);
    cv::split(canvas, planes);
    const auto cpu = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto images = Ort::Value::CreateTensor(cpu, pixels.data(), pixels.size(), shape.data(), shape.size());

    const char* const input = "images";
    const std::array<const char*, 2> outputs{"pif", "paf"};
    const auto fields = session_.Run(Ort::RunOptions(), &input, &images, 1, outputs.data(), outputs.size());
    const auto pif = fields[0].GetTensorTypeAndShapeInfo().GetShape();  // [1, K, 5, h, w]
    const auto paf = fields[1].GetTensorTypeAndShapeInfo().GetShape();  // [1, M, 8, h, w]
    return decoder.decode({fields[0].GetTensorData<float>(), fields[1].GetTensorData<float>(), static_cast<int>(pif[1]),
                           static_cast<int>(paf[1]), static_cast<int>(pif[3]), static_cast<int>(pif[4])},
                          document_["stride"].get<int>());
  }

 private:
  Ort::Env env_;
  Ort::Session session_;
  json document_;
  std::vector<std::int64_t> input_shape_;  // [B, 3, H, W]; −1 where any number will do
};

json to_json(const pifpaf::Persons& persons, double scale, const json& names, const pifpaf::DecoderConfig& config) {
  json found = json::array();
  for (std::size_t p = 0; p < persons.size(); ++p) {
    json keypoints = json::object();
    for (std::size_t k = 0; k < names.size(); ++k) {
      const pifpaf::Joint& joint = persons[p][k];
      if (joint.found()) keypoints[names[k].get<std::string>()] = {joint.x / scale, joint.y / scale, joint.confidence};
    }
    const float score = pifpaf::person_score(persons[p], persons.num_keypoints, config);
    found.push_back({{"score", score}, {"keypoints", keypoints}});
  }
  return found;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 3) throw std::invalid_argument("usage: find_persons MODEL.onnx PICTURE...");
  Model model(argv[1]);
  const pifpaf::Decoder decoder = model.make_decoder();
  for (int i = 2; i < argc; ++i) {
    const cv::Mat picture = cv::imread(argv[i]);  // upright, as the EXIF orientation of a JPEG says
    if (picture.empty()) throw std::invalid_argument(std::string(argv[i]) + " is missing or not a picture");
    const Canvas canvas = model.canvas(picture);
    const pifpaf::Persons persons = model.find(decoder, canvas.pixels);
    const json found = to_json(persons, canvas.scale, model.skeleton()["keypoints"], decoder.config());
    std::cout << json{{"picture", argv[i]}, {"persons", found}} << '\n';
  }
  return 0;
} catch (const std::exception& error) {  // of all four libraries
  std::cerr << "find_persons: " << error.what() << '\n';
  return 1;
}
