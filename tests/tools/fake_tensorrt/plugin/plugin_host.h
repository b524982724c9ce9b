// Fake TensorRT for the plugin: the interfaces that a plugin library uses, implemented on the real headers,
// and helpers of the checks.
//
// Confirmed by: the real registry of TensorRT-RTX 1.7.1.116 loaded the nvcc-built library on a CPU, listed
// the creator, its fields and defaults, and created plugins (tests/kernels/test_plugin.py). The kernel tests
// passed on an NVIDIA H200 under compute-sanitizer in November 2026. No real TensorRT has built or executed
// an engine with this plugin so far: symbolic shapes, formats and call order follow NVIDIA's headers and API
// reference.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace host {

// --- checks

// Counts and prints a failed check; the program goes on and ends with status 1.
void check(bool holds, const std::string& what);
int failures() noexcept;
int checks() noexcept;

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

class LoggerFinder final : public nvinfer1::ILoggerFinder {
  public:
    explicit LoggerFinder(Logger& logger) : logger_(logger) {}
    nvinfer1::ILogger* findLogger() override;
    bool throws{false};

  private:
    Logger& logger_;
};

// --- dimensions

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
    std::int64_t getConstantValue() const override { return constant_; }
    bool isSizeTensor() const override { return false; }

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
    const nvinfer1::IDimensionExpr* constant(std::int64_t value) override;
    const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation operation,
                                              const nvinfer1::IDimensionExpr& first,
                                              const nvinfer1::IDimensionExpr& second) override;
    const nvinfer1::IDimensionExpr* declareSizeTensor(std::int32_t output,
                                                      const nvinfer1::IDimensionExpr& optimum,
                                                      const nvinfer1::IDimensionExpr& upper) override;

    std::deque<Expression> all_;
};

// --- the library and one plugin

class ResourceContext final : public nvinfer1::IPluginResourceContext {
  public:
    nvinfer1::IGpuAllocator* getGpuAllocator() const noexcept override { return nullptr; }
    nvinfer1::IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
};

// dlopen, getCreators, setLoggerFinder; closes the library at the end of its life.
class Library {
  public:
    Library(const char* path, nvinfer1::ILoggerFinder& finder);
    Library(const Library&) = delete;
    Library& operator=(const Library&) = delete;
    ~Library();
    nvinfer1::IPluginCreatorV3One& creator() const { return *creator_; }

  private:
    void* handle_;
    nvinfer1::IPluginCreatorV3One* creator_{nullptr};
};

using PluginPointer = std::unique_ptr<nvinfer1::IPluginV3>;

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

PluginPointer create(const Library& library, Fields fields,
                     nvinfer1::TensorRTPhase phase = nvinfer1::TensorRTPhase::kBUILD,
                     const char* layer = "layer");
nvinfer1::IPluginV3OneBuild& build_of(nvinfer1::IPluginV3& plugin);
nvinfer1::IPluginV3OneRuntime& runtime_of(nvinfer1::IPluginV3& plugin);

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
std::int32_t shape_change(nvinfer1::IPluginV3& plugin, const Descs& descs);

// --- groups of checks

void check_creator(const Library& library, Logger& logger);
void check_build(const Library& library, Logger& logger);
void check_errors(const Library& library, Logger& logger, LoggerFinder& finder);
// Calls from a file that tests/kernels/test_plugin.py writes with the reference's results; returns the number
// of calls.
std::int64_t run_cases(const Library& library, Logger& logger, const char* path);
// Invalid pointers; needs the CUDA-on-CPU layer.
void check_pointers(const Library& library, Logger& logger);
// A launch on a machine without a GPU: an error status and a log message.
void check_launch_error(const Library& library, Logger& logger);

}  // namespace host
