// pixels inputs FILE FORM: the inputs of the cases in FILE, one after another, on standard output. FORM:
// float (float32), uint8, uint8-nhwc. pixels decode FILE LIMIT: height, width and RGB pixels of an image
// file, or the error on standard error.
//
// A case is a line "height width input_height input_width interpolation crop_pct crop_mode" and height *
// width * 3 bytes.
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>

#include "image.hpp"
#include "tokfilter/image.hpp"

namespace {

template <class Values>
int put(const Values& values) {
    if (!values.ok()) return std::fprintf(stderr, "%s\n", values.status().message().c_str()), 1;
    std::fwrite(values->data(), sizeof(*values->data()), values->size(), stdout);
    return 0;
}

int inputs(const char* path, const std::string& form) {
    std::ifstream file(path, std::ios::binary);
    tokfilter::Preprocess to;
    to.mean = {0.485, 0.456, 0.406};
    to.std = {0.229, 0.224, 0.225};
    if (form != "float")
        to.form = form == "uint8" ? tokfilter::InputForm::uint8 : tokfilter::InputForm::uint8_nhwc;
    std::int64_t height = 0, width = 0;
    while (file >> height >> width >> to.height >> to.width >> to.interpolation >> to.crop_pct >>
           to.crop_mode) {
        file.get();
        std::vector<char> pixels(static_cast<std::size_t>(height * width * 3));
        file.read(pixels.data(), static_cast<std::streamsize>(pixels.size()));
        const tokfilter::RgbImage image{reinterpret_cast<const std::uint8_t*>(pixels.data()), height, width};
        if ((form == "float" ? put(to.input(image)) : put(to.pixels(image))) != 0) return 1;
        const bool refused = form == "float" ? !to.pixels(image).ok() : !to.input(image).ok();
        if (!refused) return std::fprintf(stderr, "the other form was not refused\n"), 1;
    }
    return 0;
}

int decode(const char* path, const char* limit) {
    const auto image = example::read_image(path, std::stoll(limit));
    if (!image.ok()) return std::fprintf(stderr, "%s\n", image.status().message().c_str()), 1;
    std::printf("%lld %lld\n", static_cast<long long>(image->height), static_cast<long long>(image->width));
    std::fwrite(image->values.data(), 1, image->values.size(), stdout);
    return 0;
}

}  // namespace

int main(int count, char** values) {
    const std::string verb = count > 2 ? values[1] : "";
    if (verb == "inputs" && count > 3) return inputs(values[2], values[3]);
    if (verb == "decode" && count > 3) return decode(values[2], values[3]);
    return 2;
}
