#include "contract.h"

#include <cstring>
#include <limits>
#include <string_view>

#include "text.h"
#include "versions.h"

namespace tokfilter {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

std::string read_count(const PluginField& field, std::int32_t& count) {
    const bool is_int32 = field.type == PluginFieldType::kINT32;
    if (!is_int32 && field.type != kFieldInt64) {
        return text("attribute ", field.name, " expects one integer (kINT32 or kINT64), got a field of type ",
                    field.type, ".");
    }
    if (field.length != 1 || field.data == nullptr) {
        return text("attribute ", field.name, " expects one integer, got ",
                    field.data == nullptr ? 0 : field.length, ".");
    }
    // The caller's buffer need not be aligned.
    std::int64_t value = 0;
    if (is_int32) {
        std::int32_t narrow = 0;
        std::memcpy(&narrow, field.data, sizeof(narrow));
        value = narrow;
    } else {
        std::memcpy(&value, field.data, sizeof(value));
    }
    if (value < 0 || value > std::numeric_limits<std::int32_t>::max()) {
        return text("attribute ", field.name, " expects a value from 0 to 2147483647, got ", value, ".");
    }
    count = static_cast<std::int32_t>(value);
    return {};
}

std::string read_order(const PluginField& field, Order& order) {
    if (field.type != PluginFieldType::kCHAR) {
        return text("attribute ", field.name, " expects a string (kCHAR), got a field of type ", field.type,
                    ".");
    }
    if (field.length < 0 || (field.data == nullptr && field.length > 0)) {
        return text("attribute ", field.name, " expects a string, got a field of length ", field.length,
                    " without data.");
    }
    std::string_view name(static_cast<const char*>(field.data), static_cast<std::size_t>(field.length));
    // Some callers include the terminating zero in the length; the ONNX parser does not.
    name = name.substr(0, name.find('\0'));
    for (std::size_t i = 0; i < kOrderNames.size(); ++i) {
        if (name == kOrderNames[i]) {
            order = static_cast<Order>(i);
            return {};
        }
    }
    return text("attribute ", field.name, " expects \"", kOrderNames[0], "\" or \"", kOrderNames[1],
                "\", got \"", name, "\".");
}

std::string read_field(const PluginField& field, Config& config) {
    const std::string_view name = field.name == nullptr ? "" : field.name;
    if (name == "k") {
        return read_count(field, config.k);
    }
    if (name == "prefix_tokens") {
        return read_count(field, config.prefix_tokens);
    }
    if (name == "order") {
        return read_order(field, config.order);
    }
    // An ignored misspelling would silently drop the class token or the budget.
    return text("no attribute is called \"", name, "\"; known are k, prefix_tokens and order.");
}

}  // namespace

std::string read_config(const nvinfer1::PluginFieldCollection* fields, Config& config) {
    if (fields == nullptr || fields->nbFields == 0) {
        return {};
    }
    if (fields->nbFields < 0 || fields->fields == nullptr) {
        return text("expects a list of fields, got ", fields->nbFields, " fields without data.");
    }
    for (std::int32_t i = 0; i < fields->nbFields; ++i) {
        std::string error = read_field(fields->fields[i], config);
        if (!error.empty()) {
            return error;
        }
    }
    return {};
}

std::string describe(const Config& config) {
    return text("k=", config.k, ";prefix_tokens=", config.prefix_tokens, ";order=", config.order_name());
}

std::array<PluginField, 3> fields_of(const Config& config) noexcept {
    const char* order = config.order_name();
    return {
        PluginField{"k", &config.k, PluginFieldType::kINT32, 1},
        PluginField{"prefix_tokens", &config.prefix_tokens, PluginFieldType::kINT32, 1},
        PluginField{"order", order, PluginFieldType::kCHAR, static_cast<std::int32_t>(std::strlen(order))}};
}

}  // namespace tokfilter
