// Fake TensorRT: runtime, engine, execution context and plugin registry for the plan files of plan.hpp.
//
// Environment: FAKE_TENSORRT_VERSION is the library's version as TensorRT's number; default: that of the
// headers. FAKE_TENSORRT_FAILS: the runtime does not start, as the real ones of 10.15 to 11.4 without a
// driver.
//
// Confirmed by: the interfaces are those of the real headers (stubs.py), and the real TensorRT-RTX 1.7.1.116
// loads and links with runtime/cpp on a CPU up to the check for a GPU (tests/runtime/cpp/test_linked.py).
// Messages of registry, refused plans and a runtime that does not start are those of TensorRT-RTX 1.7.1 and
// of the lean runtimes of 10.15 to 11.4, recorded on 2026-11-26 (tests/trt/real/recorded); 8.6.0 ends the
// process instead of returning from createInferRuntime. No real TensorRT has executed a plan through
// runtime/cpp so far: the behaviour of execution contexts follows NVIDIA's API reference.
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "cuda.hpp"
#include "fake_stubs.hpp"
#include "plan.hpp"
#include "registry.hpp"
#include "signatures.hpp"

namespace nvinfer1::fake {
namespace {

using ::fake::PlanFile;
using ::fake::Profile;

Dims dims_of(const std::vector<std::int64_t>& sizes) {
    Dims dims{};
    dims.nbDims = static_cast<int>(sizes.size());
    for (std::size_t i = 0; i < sizes.size(); ++i) dims.d[i] = sizes[i];
    return dims;
}

class Context : public IExecutionContext, public StubContext {
  public:
    Context(const PlanFile& plan, ILogger& logger) : plan_(plan), logger_(logger) {
        mImpl = this;
        tokens_ = plan.tokens;
    }

    bool setOptimizationProfileAsync(std::int32_t index, cudaStream_t) noexcept override {
        profile_ = &plan_.profiles.at(static_cast<std::size_t>(index));
        return plan_.fail != "profile";
    }

    bool setInputShape(const char* name, const Dims& dims) noexcept override {
        const bool images = name == std::string("images");
        (images ? batch_ : tokens_) = dims.d[0];
        const auto& range = images ? profile_->batch : profile_->budget;
        return dims.nbDims == (images ? 4 : 1) && range[0] <= dims.d[0] && dims.d[0] <= range[2];
    }

    Dims getTensorShape(const char* name) const noexcept override {
        const bool logits = name == plan_.output;
        return dims_of({batch_, logits ? plan_.classes + (plan_.fail == "shape" ? 1 : 0) : tokens_});
    }

    bool setTensorAddress(const char* name, void* data) noexcept override {
        addresses_[name] = data;
        return data != nullptr;
    }

    bool setInputTensorAddress(const char* name, const void* data) noexcept override {
        return setTensorAddress(name, const_cast<void*>(data));
    }

    bool enqueueV3(cudaStream_t stream) noexcept override {
        if (plan_.fail == "enqueue") {
            logger_.log(ILogger::Severity::kERROR,
                        "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (fake)");
            return false;
        }
        ::fake::put(stream, [plan = plan_, batch = batch_, tokens = tokens_, at = addresses_] {
            compute(plan, batch, tokens, at);
        });
        return true;
    }

  private:
    static void compute(const PlanFile& plan, std::int64_t batch, std::int64_t tokens,
                        const std::map<std::string, void*>& at) {
        std::this_thread::sleep_for(std::chrono::milliseconds(plan.milliseconds));
        while (!plan.wait_for_file.empty() && !std::filesystem::exists(plan.wait_for_file))
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        const auto value = [&, images = at.at("images")](std::int64_t i) {
            return plan.bytes ? static_cast<float>(static_cast<const std::uint8_t*>(images)[i])
                              : static_cast<const float*>(images)[i];
        };
        auto* logits = static_cast<float*>(at.at(plan.output));
        for (std::int64_t b = 0; b < batch; ++b) {
            float sum = 0;
            for (std::int64_t i = 0; i < plan.pixels; ++i) sum += value(b * plan.pixels + i);
            for (std::int64_t c = 0; c < plan.classes; ++c)
                *logits++ = (sum * static_cast<float>(c + 1) + static_cast<float>(tokens)) * plan.factor;
        }
        if (at.count("indices") == 0) return;
        auto* indices = static_cast<std::int32_t*>(at.at("indices"));
        for (std::int64_t i = 0; i < batch * tokens; ++i)
            indices[i] = static_cast<std::int32_t>(plan.patches - tokens + i % tokens);
    }

    PlanFile plan_;
    ILogger& logger_;
    const Profile* profile_ = nullptr;
    std::int64_t batch_ = 0;
    std::int64_t tokens_ = 0;
    std::map<std::string, void*> addresses_;
};

class Engine : public ICudaEngine, public StubEngine {
  public:
    Engine(PlanFile plan, ILogger& logger) : plan_(std::move(plan)), logger_(logger) { mImpl = this; }

    std::int32_t getNbIOTensors() const noexcept override {
        return static_cast<std::int32_t>(plan_.tensors.size());
    }
    const char* getIOTensorName(std::int32_t i) const noexcept override {
        return plan_.tensors.at(static_cast<std::size_t>(i)).name.c_str();
    }
    Dims getTensorShape(const char* name) const noexcept override { return dims_of(plan_.find(name)->sizes); }
    DataType getTensorDataType(const char* name) const noexcept override { return plan_.find(name)->type; }
    TensorIOMode getTensorIOMode(const char* name) const noexcept override {
        return plan_.find(name)->input ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
    }
    std::int32_t getNbOptimizationProfiles() const noexcept override {
        return static_cast<std::int32_t>(plan_.profiles.size());
    }
    Dims getProfileShape(const char* name, std::int32_t index,
                         OptProfileSelector which) const noexcept override {
        const Profile& profile = plan_.profiles.at(static_cast<std::size_t>(index));
        auto sizes = plan_.find(name)->sizes;
        sizes[0] =
            (name == std::string("images") ? profile.batch : profile.budget)[static_cast<std::size_t>(which)];
        return dims_of(sizes);
    }
    IExecutionContext* createExecutionContext(FAKE_CONTEXT_PARAMETERS) noexcept override {
        if (plan_.fail != "context") return new Context(plan_, logger_);
        logger_.log(ILogger::Severity::kERROR,
                    "Requested amount of GPU memory could not be allocated (fake).");
        return nullptr;
    }

  private:
    PlanFile plan_;
    ILogger& logger_;
};

class Runtime : public IRuntime, public StubRuntime {
  public:
#if FAKE_REGISTRY_LOADS
    explicit Runtime(ILogger& logger) : logger_(logger), registry_(logger) { mImpl = this; }

    IPluginRegistry& getPluginRegistry() noexcept override { return registry_; }
    void setEngineHostCodeAllowed(bool) noexcept override {}
#else
    explicit Runtime(ILogger& logger) : logger_(logger), registry_(process_registry()) { mImpl = this; }
#endif

    ICudaEngine* deserializeCudaEngine(FAKE_DESERIALIZE_PARAMETERS) noexcept override {
        try {
            PlanFile plan = ::fake::plan_from_bytes(static_cast<const char*>(bytes), size);
            if (plan.fail.rfind("deserialize: ", 0) == 0) return fail(plan.fail.substr(13));
            if (plan.plugin && !registry_.knows_token_select())
                return fail(
                    "IPluginRegistry::getCreator: Error Code 4: API Usage Error (Cannot find plugin: "
                    "TokenSelecttokfilter, version: 1, namespace:tokfilter. In getCreatorInternal at "
                    "/_src/runtime/dispatch/pluginRegistry.cpp:398)");
            return new Engine(std::move(plan), logger_);
        } catch (const std::exception&) {
            return fail(
                "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion "
                "header.magicTag == kEXPECTED_MAGIC_TAG failed.Trying to load an engine created with "
                "incompatible "
                "serialization version (1953657975 != 1953657974). Check that the engine was not created "
                "using "
                "safety runtime, same OS was used and version compatibility parameters were set accordingly "
                "and that "
                "it is a TRT engine file. In throwUnlessHeaderOk at /_src/runtime/dispatch/runtime.cpp:48)");
        }
    }

  private:
    ICudaEngine* fail(const std::string& message) {
        logger_.log(ILogger::Severity::kINFO, "Loaded engine size: 0 MiB");
        logger_.log(ILogger::Severity::kERROR, message.c_str());
        return nullptr;
    }

    ILogger& logger_;
#if FAKE_REGISTRY_LOADS
    Registry registry_;
#else
    Registry& registry_;
#endif
};

}  // namespace
}  // namespace nvinfer1::fake

extern "C" {

std::int32_t getInferLibVersion() noexcept {
    const std::string version = fake::environment("FAKE_TENSORRT_VERSION");
    return version.empty() ? NV_TENSORRT_VERSION : std::stoi(version);
}

void* createInferRuntime_INTERNAL(void* logger, std::int32_t) noexcept {
    if (*fake::environment("FAKE_TENSORRT_FAILS") != 0) {
        auto& log = *static_cast<nvinfer1::ILogger*>(logger);
        log.log(nvinfer1::ILogger::Severity::kERROR,
                "createInferRuntime: Error Code 6: API Usage Error (CUDA initialization failure with error: "
                "35 In "
                "checkCudaInstallation at /_src/runtime/dispatch/runtime.cpp:960)");
        log.log(nvinfer1::ILogger::Severity::kERROR,
                "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at "
                "/_src/common/dispatch/checkMacros.cpp:250 (cudaError 35: CUDA driver version is "
                "insufficient for "
                "CUDA runtime version))");
        return reinterpret_cast<void*>(std::uintptr_t{0x238});  // an offset from null, seen in 10.15.1
    }
    return static_cast<nvinfer1::IRuntime*>(
        new nvinfer1::fake::Runtime(*static_cast<nvinfer1::ILogger*>(logger)));
}

#if !FAKE_REGISTRY_LOADS
nvinfer1::IPluginRegistry* getPluginRegistry() noexcept { return &nvinfer1::fake::process_registry(); }
#endif

}  // extern "C"
