// Fake TensorRT for the plugin: the interfaces that a plugin library uses, implemented on the real headers,
// and helpers of the checks. The headers' version chooses the plugin class: IPluginV2DynamicExt (8.5, 8.6) or
// IPluginV3; the functions under "one plugin" hide the difference from the checks.
//
// Confirmed by: the real registries of TensorRT 8.6.0 (tests/kernels/test_real_tensorrt_8.py) and
// TensorRT-RTX 1.7.1.116 (test_plugin.py) loaded the nvcc-built libraries on a CPU, listed the creator, its
// fields and defaults, and created plugins. The kernel tests passed on an NVIDIA H200 under compute-sanitizer
// in November 2026. No real TensorRT has built or executed an engine with this plugin so far: symbolic
// shapes, formats and call order follow NVIDIA's headers and API reference.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "versions.h"

namespace host {

// --- checks

// Counts and prints a failed check; the program goes on and ends with status 1.
void check(bool holds, const std::string& what);
// Prints the number of checks and of failures; the program's status.
int report() noexcept;

// --- logger

class Logger final : public nvinfer1::ILogger {
  public:
    void log(Severity severity, const char* message) noexcept override;
    // Whether one message since the last match had this severity and all these words; clears the messages
    // then.
    bool has(Severity severity, const std::vector<std::string>& words);
    bool has_error(const std::vector<std::string>& words) { return has(Severity::kERROR, words); }
    bool silent();
    std::string last() const { return messages_.empty() ? "nothing" : messages_.back().second; }

  private:
    std::vector<std::pair<Severity, std::string>> messages_;
};

class LoggerFinder final : public tokfilter::LoggerFinder {
  public:
    explicit LoggerFinder(Logger& logger) : logger_(logger) {}
    nvinfer1::ILogger* findLogger() override;
    bool throws{false};

  private:
    Logger& logger_;
};

// --- dimensions

// int32 in 8.x, int64 later.
using Extent = decltype(std::declval<nvinfer1::IDimensionExpr>().getConstantValue());

// A symbolic dimension: a constant, a name, or an operation. evaluate() takes the values of the names.
class Expression final : public nvinfer1::IDimensionExpr, private nvinfer1::apiv::VDimensionExpr {
  public:
    using Names = std::map<std::string, std::int64_t>;

    explicit Expression(std::int64_t constant);
    explicit Expression(std::string name);
    Expression(nvinfer1::DimensionOperation operation, const Expression& first, const Expression& second);
    std::int64_t evaluate(const Names& names) const;

  private:
    bool isConstant() const override { return name_.empty() && first_ == nullptr; }
    Extent getConstantValue() const override { return static_cast<Extent>(constant_); }
#if NV_TENSORRT_MAJOR >= 10
    bool isSizeTensor() const override { return false; }
#endif

    std::int64_t constant_{0};
    std::string name_;
    nvinfer1::DimensionOperation operation_{nvinfer1::DimensionOperation::kSUM};
    const Expression* first_{nullptr};
    const Expression* second_{nullptr};
};

// Owns every expression that it and the test make.
class ExpressionBuilder final : public nvinfer1::IExprBuilder, private nvinfer1::apiv::VExprBuilder {
  public:
    ExpressionBuilder() { mImpl = this; }
    const Expression& symbol(const std::string& name) { return all_.emplace_back(name); }
    const Expression& number(std::int64_t value) { return all_.emplace_back(value); }
    bool refuses{false};  // returns null, as TensorRT does on an internal error

  private:
    const nvinfer1::IDimensionExpr* constant(Extent value) override;
    const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation operation,
                                              const nvinfer1::IDimensionExpr& first,
                                              const nvinfer1::IDimensionExpr& second) override;
#if NV_TENSORRT_MAJOR >= 10
    const nvinfer1::IDimensionExpr* declareSizeTensor(std::int32_t output,
                                                      const nvinfer1::IDimensionExpr& optimum,
                                                      const nvinfer1::IDimensionExpr& upper) override;
#endif

    std::deque<Expression> all_;
};

// --- the library

#if NV_TENSORRT_MAJOR >= 10
using Plugin = nvinfer1::IPluginV3;
using Creator = nvinfer1::IPluginCreatorV3One;
#else
using Plugin = nvinfer1::IPluginV2DynamicExt;
using Creator = nvinfer1::IPluginCreator;
#endif

// The function of an open library; throws where it has none.
template <typename Function>
Function symbol(void* library, const char* name) {
    return reinterpret_cast<Function>(symbol<void*>(library, name));
}
template <>
void* symbol<void*>(void* library, const char* name);

// dlopen, setLoggerFinder, getCreators or getPluginCreators; closes the library at the end of its life.
class Library {
  public:
    Library(const char* path, tokfilter::LoggerFinder& finder);
    Library(const Library&) = delete;
    Library& operator=(const Library&) = delete;
    ~Library();
    Creator& creator() const { return *creator_; }

  private:
    void* handle_;
    Creator* creator_{nullptr};
};

// The library's one creator; checks that it is the only one, and that a TensorRT of another interface gets
// none.
Creator& creator_of(void* library);

// Attributes in storage of their own at odd addresses: TensorRT guarantees no alignment.
class Fields {
  public:
    Fields& add(const char* name, nvinfer1::PluginFieldType type, const void* data, std::size_t bytes,
                std::int32_t length);
    Fields& number(const char* name, std::int32_t value);
    Fields& string(const char* name, const std::string& value);
    const nvinfer1::PluginFieldCollection* get();

  private:
    std::deque<std::string> names_;
    std::deque<std::vector<char>>
        values_;  // no zero after a string: a read past its end is one past the buffer
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_{};
};

Fields attributes(std::int32_t k, std::int32_t prefix_tokens, const std::string& order);
// A deep copy, as after deserialisation.
Fields copy_of(const nvinfer1::PluginFieldCollection& fields);

nvinfer1::Dims dims(const std::vector<std::int64_t>& values);
nvinfer1::PluginTensorDesc tensor(nvinfer1::DataType type, const std::vector<std::int64_t>& values);

// The tensors of one call; tests change them to invalid ones.
struct Descs {
    std::vector<nvinfer1::PluginTensorDesc> inputs;
    std::vector<nvinfer1::PluginTensorDesc> outputs;
};

struct Sizes {
    std::int64_t batch, prefix, patches, channels, k;
    bool slots;
};

Descs describe(const Sizes& sizes, nvinfer1::DataType tokens, nvinfer1::DataType scores);

// --- one plugin

struct Destroy {
    void operator()(Plugin* plugin) const;
};
using PluginPointer = std::unique_ptr<Plugin, Destroy>;

PluginPointer create(Creator& creator, const nvinfer1::PluginFieldCollection* fields, const char* layer);
PluginPointer create(const Library& library, Fields fields, const char* layer = "layer");
PluginPointer clone(const Plugin& plugin);
// Written into an engine and read again.
PluginPointer reread(const Library& library, const Plugin& plugin);
// As an execution context gets it.
PluginPointer attached(Plugin& plugin);
// Its attributes: "k=3;prefix_tokens=1;order=score"
std::string id_of(const Plugin& plugin);
// Name, version, namespace, number of outputs, and what only one class has. `plugin` has k 3 and order score.
void check_identity(const Library& library, Plugin& plugin, Logger& logger);

// Whether a function failed. Two functions of 8.x have no error status: there only the logged error tells.
inline bool failed(bool status) { return status || tokfilter::kIsVersion2; }

// Empty where the plugin refuses.
std::vector<nvinfer1::DataType> output_types(const Plugin& plugin,
                                             const std::vector<nvinfer1::DataType>& inputs);
// False where the plugin refuses; else the shapes of both outputs.
bool output_shapes(Plugin& plugin, const nvinfer1::DimsExprs* inputs, std::int32_t input_count,
                   ExpressionBuilder& builder, nvinfer1::DimsExprs* outputs);
// tensors: the inputs, then two outputs
bool supports(Plugin& plugin, std::int32_t position, const std::vector<nvinfer1::PluginTensorDesc>& tensors);
// Formats are chosen; profile of the shapes from `least` to `most`. False where the plugin refuses.
bool configure(Plugin& plugin, const Descs& least, const Descs& most);
std::int32_t enqueue(Plugin& plugin, const Descs& descs, const void* const* inputs, void* const* outputs);
// Whether the plugin refuses these tensors before anything runs: in onShapeChange(), in 8.x in enqueue().
bool refuses(Plugin& plugin, const Descs& descs, Logger& logger);

// --- groups of checks

void check_creator(const Library& library, Logger& logger);
void check_build(const Library& library, Logger& logger);
void check_errors(const Library& library, Logger& logger, LoggerFinder& finder);
// Calls from a file that tests/kernels/test_plugin.py writes with the reference's results; returns the number
// of calls.
std::int64_t run_cases(const Library& library, Logger& logger, const char* path);
// Invalid pointers; needs the CUDA-on-CPU layer.
void check_pointers(const Library& library, Logger& logger);
// A finder of another major version of TensorRT, in a library of its own, is not used.
void check_other_finder(const char* plugin, const char* other, Logger& logger, LoggerFinder& finder);
// A launch on a machine without a GPU: an error status and a log message.
void check_launch_error(const Library& library, Logger& logger);

}  // namespace host
