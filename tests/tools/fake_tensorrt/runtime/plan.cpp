#include "plan.hpp"

#include <nlohmann/json.hpp>

namespace fake {

const Tensor* PlanFile::find(const std::string& name) const {
    for (const Tensor& tensor : tensors)
        if (tensor.name == name) return &tensor;
    return nullptr;
}

PlanFile plan_from_bytes(const char* bytes, std::size_t size) {
    using nvinfer1::DataType;
    const auto json = nlohmann::json::parse(bytes, bytes + size);
    PlanFile plan;
    plan.classes = json.at("classes");
    plan.patches = json.at("patches");
    plan.tokens = json.value("tokens", plan.patches);
    plan.plugin = json.value("plugin", false);
    plan.milliseconds = json.value("milliseconds", 0);
    plan.wait_for_file = json.value("wait_for_file", "");
    plan.factor = json.value("factor", 1.0f);
    plan.fail = json.value("fail", "");
    const std::int64_t height = json.at("size").at(0), width = json.at("size").at(1);
    plan.pixels = 3 * height * width;
    const bool slots = json.value("slots", true), indices = json.value("indices", true);
    const std::string input = json.value("input", "float");
    plan.bytes = input != "float";
    const auto type = json.value("half", false) ? DataType::kHALF : DataType::kFLOAT;
    plan.tensors.push_back({"images", true, plan.bytes ? DataType::kUINT8 : type,
                            input == "uint8-nhwc" ? std::vector<std::int64_t>{-1, height, width, 3}
                                                  : std::vector<std::int64_t>{-1, 3, height, width}});
    if (slots) plan.tensors.push_back({"slots", true, DataType::kINT32, {-1}});
    plan.output = json.value("logits", "logits");
    plan.tensors.push_back({plan.output, false, DataType::kFLOAT, {-1, plan.classes}});
    if (indices) plan.tensors.push_back({"indices", false, DataType::kINT32, {-1, slots ? -1 : plan.tokens}});
    for (const auto& profile : json.at("profiles"))
        plan.profiles.push_back(
            {profile.at("batch"), profile.value("budget", std::array<std::int64_t, 3>{})});
    return plan;
}

}  // namespace fake
