// Text of messages from values of TensorRT.
#pragma once

#include <NvInferRuntime.h>

#include <ostream>
#include <sstream>
#include <string>

namespace tokfilter {

// One name per value of TensorRT's enumerations, by number; a number beyond the list prints as itself.
template <std::size_t Count>
void print_enum(std::ostream& out, const char* const (&names)[Count], std::int32_t value) {
    if (value >= 0 && static_cast<std::size_t>(value) < Count) {
        out << names[value];
    } else {
        out << "number " << value;
    }
}

inline void print(std::ostream& out, nvinfer1::DataType type) {
    static constexpr const char* kNames[] = {"FP32", "FP16", "INT8",  "INT32", "BOOL", "UINT8",
                                             "FP8",  "BF16", "INT64", "INT4",  "FP4",  "E8M0"};
    print_enum(out, kNames, static_cast<std::int32_t>(type));
}

inline void print(std::ostream& out, nvinfer1::PluginFieldType type) {
    static constexpr const char* kNames[] = {"kFLOAT16", "kFLOAT32", "kFLOAT64", "kINT8",    "kINT16",
                                             "kINT32",   "kCHAR",    "kDIMS",    "kUNKNOWN", "kBF16",
                                             "kINT64",   "kFP8",     "kINT4",    "kFP4"};
    print_enum(out, kNames, static_cast<std::int32_t>(type));
}

inline void print(std::ostream& out, const nvinfer1::Dims& dims) {
    out << '[';
    for (std::int32_t i = 0; i < dims.nbDims; ++i) {
        out << (i == 0 ? "" : ", ") << dims.d[i];
    }
    out << ']';
}

template <typename Value>
void print(std::ostream& out, const Value& value) {
    out << value;
}

// All arguments, one after the other.
template <typename... Values>
std::string text(const Values&... values) {
    std::ostringstream out;
    out.exceptions(std::ios::badbit);  // throw when out of memory, instead of a truncated message
    (print(out, values), ...);
    return out.str();
}

}  // namespace tokfilter
