// Fake TensorRT: logger, symbolic expressions, library loading, fields (see plugin_host.h).
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "plugin_host.h"

namespace host {

using nvinfer1::DataType;
using nvinfer1::DimensionOperation;
using nvinfer1::IDimensionExpr;
using nvinfer1::PluginFieldType;

namespace {

int g_checks = 0;
int g_failures = 0;

}  // namespace

void check(bool holds, const std::string& what) {
    ++g_checks;
    if (!holds) {
        ++g_failures;
        std::fprintf(stderr, "FAILED: %s\n", what.c_str());
    }
}

int report() noexcept {
    std::printf("%d checks, %d failures\n", g_checks, g_failures);
    return g_failures == 0 ? 0 : 1;
}

void Logger::log(Severity severity, const char* message) noexcept {
    messages_.emplace_back(severity, message);
}

bool Logger::has(Severity severity, const std::vector<std::string>& words) {
    bool found = false;
    for (const auto& [level, message] : messages_) {
        bool all = level == severity;
        for (const std::string& word : words) {
            all = all && message.find(word) != std::string::npos;
        }
        found = found || all;
    }
    if (found) {
        messages_.clear();
    }
    return found;
}

bool Logger::silent() {
    const bool nothing = messages_.empty();
    messages_.clear();
    return nothing;
}

nvinfer1::ILogger* LoggerFinder::findLogger() {
    if (throws) {
        throw std::runtime_error("no logger");
    }
    return &logger_;
}

Expression::Expression(std::int64_t constant) : constant_(constant) { mImpl = this; }

Expression::Expression(std::string name) : name_(std::move(name)) { mImpl = this; }

Expression::Expression(DimensionOperation operation, const Expression& first, const Expression& second)
    : operation_(operation), first_(&first), second_(&second) {
    mImpl = this;
}

std::int64_t Expression::evaluate(const Names& names) const {
    if (first_ == nullptr) {
        return name_.empty() ? constant_ : names.at(name_);
    }
    if (operation_ != DimensionOperation::kSUM) {
        throw std::runtime_error("the plugin asked for an operation other than a sum");
    }
    return first_->evaluate(names) + second_->evaluate(names);
}

const IDimensionExpr* ExpressionBuilder::constant(Extent value) { return refuses ? nullptr : &number(value); }

const IDimensionExpr* ExpressionBuilder::operation(DimensionOperation operation, const IDimensionExpr& first,
                                                   const IDimensionExpr& second) {
    return refuses ? nullptr
                   : &all_.emplace_back(operation, dynamic_cast<const Expression&>(first),
                                        dynamic_cast<const Expression&>(second));
}

#if NV_TENSORRT_MAJOR >= 10
const IDimensionExpr* ExpressionBuilder::declareSizeTensor(std::int32_t, const IDimensionExpr&,
                                                           const IDimensionExpr&) {
    throw std::runtime_error("the plugin asked for a size tensor");
}
#endif

template <>
void* symbol<void*>(void* library, const char* name) {
    void* found = dlsym(library, name);
    if (found == nullptr) {
        throw std::runtime_error(dlerror());
    }
    return found;
}

Library::Library(const char* path, tokfilter::LoggerFinder& finder)
    : handle_(dlopen(path, RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) {
        throw std::runtime_error(dlerror());
    }
    const auto set_finder = symbol<void (*)(tokfilter::LoggerFinder*)>(handle_, "setLoggerFinder");
    set_finder(nullptr);  // null must not replace the finder that follows
    set_finder(&finder);
    creator_ = &creator_of(handle_);
}

Library::~Library() { dlclose(handle_); }

Fields& Fields::add(const char* name, PluginFieldType type, const void* data, std::size_t bytes,
                    std::int32_t length) {
    const char* stored_name = name == nullptr ? nullptr : names_.emplace_back(name).c_str();
    const void* stored = nullptr;
    if (data != nullptr) {
        std::vector<char>& value = values_.emplace_back(bytes + 1);
        std::memcpy(value.data() + 1, data, bytes);
        stored = value.data() + 1;
    }
    fields_.emplace_back(stored_name, stored, type, length);
    return *this;
}

Fields& Fields::number(const char* name, std::int32_t value) {
    return add(name, PluginFieldType::kINT32, &value, sizeof(value), 1);
}

Fields& Fields::string(const char* name, const std::string& value) {
    return add(name, PluginFieldType::kCHAR, value.data(), value.size(),
               static_cast<std::int32_t>(value.size()));
}

const nvinfer1::PluginFieldCollection* Fields::get() {
    collection_ = {static_cast<std::int32_t>(fields_.size()), fields_.data()};
    return &collection_;
}

Fields attributes(std::int32_t k, std::int32_t prefix_tokens, const std::string& order) {
    Fields fields;
    fields.number("k", k).number("prefix_tokens", prefix_tokens).string("order", order);
    return fields;
}

Fields copy_of(const nvinfer1::PluginFieldCollection& fields) {
    Fields copy;
    for (std::int32_t i = 0; i < fields.nbFields; ++i) {
        const nvinfer1::PluginField& field = fields.fields[i];
        const std::size_t width = field.type == PluginFieldType::kCHAR ? 1 : sizeof(std::int32_t);
        copy.add(field.name, field.type, field.data, width * static_cast<std::size_t>(field.length),
                 field.length);
    }
    return copy;
}

PluginPointer create(const Library& library, Fields fields, const char* layer) {
    return create(library.creator(), fields.get(), layer);
}

nvinfer1::Dims dims(const std::vector<std::int64_t>& values) {
    nvinfer1::Dims result{};
    result.nbDims = static_cast<std::int32_t>(values.size());
    std::copy(values.begin(), values.end(), result.d);
    return result;
}

nvinfer1::PluginTensorDesc tensor(DataType type, const std::vector<std::int64_t>& values) {
    nvinfer1::PluginTensorDesc desc{};
    desc.dims = dims(values);
    desc.type = type;
    desc.format = nvinfer1::TensorFormat::kLINEAR;
    return desc;
}

Descs describe(const Sizes& sizes, DataType tokens, DataType scores) {
    Descs descs;
    descs.inputs = {tensor(tokens, {sizes.batch, sizes.prefix + sizes.patches, sizes.channels}),
                    tensor(scores, {sizes.batch, sizes.patches})};
    if (sizes.slots) {
        descs.inputs.push_back(tensor(DataType::kINT32, {sizes.k}));
    }
    descs.outputs = {tensor(tokens, {sizes.batch, sizes.prefix + sizes.k, sizes.channels}),
                     tensor(DataType::kINT32, {sizes.batch, sizes.k})};
    return descs;
}

}  // namespace host
