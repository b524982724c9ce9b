// Internals of tokfilter/image.hpp.
#pragma once

#include <cstdint>
#include <vector>

#include "tokfilter/image.hpp"

namespace tokfilter {

/// Check the values of a manifest. Code::manifest.
Status check_preprocess(const Preprocess& preprocess);

/// Size of the whole image after the resize that precedes the crop.
struct Size {
    std::int64_t height;
    std::int64_t width;
};
Size resized(const Preprocess& preprocess, Size image);

}  // namespace tokfilter
