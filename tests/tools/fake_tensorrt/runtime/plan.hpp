// A plan file of the fake TensorRT: JSON with the model's shapes, its profiles and the call that fails.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace fake {

struct Tensor {
    std::string name;
    bool input;
    nvinfer1::DataType type;
    std::vector<std::int64_t> sizes;
};

struct Profile {
    std::array<std::int64_t, 3> batch;
    std::array<std::int64_t, 3> budget;
};

/// The fake model: logits[b][c] = (sum of image b * (c + 1) + tokens) * factor; indices[b][j] = patches -
/// tokens + j.
struct PlanFile {
    std::vector<Tensor> tensors;
    std::vector<Profile> profiles;
    std::int64_t pixels = 0;   ///< values of one image
    bool bytes = false;        ///< whether images are 8-bit
    std::int64_t classes = 0;  ///< of the logits that are written
    std::string output;        ///< their name
    std::int64_t patches = 0;
    std::int64_t tokens = 0;    ///< of a plan with a fixed budget
    bool plugin = false;        ///< whether deserialisation needs a plugin library
    int milliseconds = 0;       ///< duration of an inference
    std::string wait_for_file;  ///< an inference ends only when this file exists; empty: at once
    float factor = 1;           ///< of all logits: above 1e36 they are infinite
    std::string fail;           ///< the call that fails

    const Tensor* find(const std::string& name) const;
};

/// Throws std::exception for bytes that are not a plan.
PlanFile plan_from_bytes(const char* bytes, std::size_t size);

}  // namespace fake
