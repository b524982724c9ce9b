#include "plan.hpp"

#include <array>
#include <mutex>
#include <utility>

#include "tensorrt_api.hpp"
#include "text.hpp"
#include "version.hpp"

namespace tokfilter {
namespace {

constexpr auto kImages = "images", kSlots = "slots", kIndices = "indices";

// Name of the first output.
const char* output_name(bool embeds) { return embeds ? "embedding" : "logits"; }

// Collects TensorRT's error messages: its calls return only success or failure. TensorRT logs from several
// threads.
class Log : public nvinfer1::ILogger {
  public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity > Severity::kERROR) return;
        try {
            const std::lock_guard lock(mutex_);
            // Where CUDA does not start, such a line follows each error, whatever failed.
            if (!messages_.empty() && std::string(message).find("catchCudaError") != std::string::npos)
                return;
            if (messages_.size() < kMost) messages_ += (messages_.empty() ? "" : " / ") + trimmed(message);
        } catch (...) {  // out of memory: the failure is still reported, without its message
        }
    }

    bool empty() {
        const std::lock_guard lock(mutex_);
        return messages_.empty();
    }

    // The messages since the last call.
    std::string take() {
        const std::lock_guard lock(mutex_);
        return messages_.empty() ? "no reason given" : std::exchange(messages_, "");
    }

  private:
    static constexpr std::size_t kMost = 2000;

    static std::string trimmed(std::string message) {
        message.erase(message.find_last_not_of(" .\n") + 1);
        return message;
    }

    std::mutex mutex_;
    std::string messages_;
};

std::vector<std::int64_t> sizes_of(const nvinfer1::Dims& dims) {
    const auto count = dims.nbDims < 0 ? 0 : dims.nbDims;  // -1 for an unknown tensor name
    return {dims.d, dims.d + count};
}

template <class... Sizes>
nvinfer1::Dims dims_of(Sizes... sizes) {
    nvinfer1::Dims dims{};
    dims.nbDims = static_cast<int>(sizeof...(sizes));
    std::size_t i = 0;
    ((dims.d[i++] = static_cast<std::decay_t<decltype(dims.d[0])>>(sizes)), ...);
    return dims;
}

Range profile_range(const nvinfer1::ICudaEngine& engine, const char* name, int profile) {
    const auto first = [&](nvinfer1::OptProfileSelector which) {
        const auto sizes = sizes_of(engine.getProfileShape(name, profile, which));
        return sizes.empty() ? std::int64_t{1} : sizes[0];
    };
    using Which = nvinfer1::OptProfileSelector;
    return {first(Which::kMIN), first(Which::kOPT), first(Which::kMAX)};
}

const char* type_name(nvinfer1::DataType type) {
    if (type == nvinfer1::DataType::kFLOAT) return " float32";
    return type == nvinfer1::DataType::kINT32 ? " int32" : " uint8";
}

// Whether the sizes match; -1 on either side matches any size.
bool fits(const std::vector<std::int64_t>& sizes, const std::vector<std::int64_t>& expected) {
    if (sizes.size() != expected.size()) return false;
    for (std::size_t i = 0; i < sizes.size(); ++i)
        if (expected[i] >= 0 && sizes[i] >= 0 && sizes[i] != expected[i]) return false;
    return true;
}

}  // namespace

// Members are destroyed in reverse order, each before those that it depends on.
struct Plan::Parts {
    Log log;
    std::unique_ptr<nvinfer1::IRuntime> runtime;
    std::unique_ptr<nvinfer1::ICudaEngine> engine;
    std::unique_ptr<nvinfer1::IExecutionContext> context;
    std::string path;
    std::vector<Profile> profiles;
    bool slots = false;
    bool indices = false;
    std::int64_t batch = 0;  // current shapes of the context
    std::int64_t tokens = 0;
    int profile = -1;

    bool has(const char* name) const {
        for (int i = 0; i < engine->getNbIOTensors(); ++i)
            if (engine->getIOTensorName(i) == std::string(name)) return true;
        return false;
    }

    Status failed(const char* what) {
        return {Code::engine, text("TensorRT could not ", what, " of ", path, ": ", log.take(), ".")};
    }
};

std::int64_t header_version() noexcept { return NV_TENSORRT_VERSION; }
std::int64_t library_version() noexcept { return getInferLibVersion(); }
const char* runtime_name() noexcept { return TOKFILTER_RUNTIME; }

Plan::Plan(std::unique_ptr<Parts> parts) noexcept : parts_(std::move(parts)) {}
Plan::Plan(Plan&&) noexcept = default;
Plan& Plan::operator=(Plan&&) noexcept = default;
Plan::~Plan() = default;

const std::vector<Profile>& Plan::profiles() const noexcept { return parts_->profiles; }
bool Plan::has_slots() const noexcept { return parts_->slots; }
bool Plan::has_indices() const noexcept { return parts_->indices; }

Result<Plan> Plan::load(const std::vector<char>& bytes, const std::string& path, const Entry& entry,
                        const std::vector<Library>& plugins) {
    auto parts = std::make_unique<Parts>();
    Parts& p = *parts;
    p.path = path;
    p.runtime.reset(nvinfer1::createInferRuntime(p.log));
    if (!p.runtime || !p.log.empty()) {
        // Without a driver the runtime of 10.15 to 11.4 is no null pointer, and no object either.
        static_cast<void>(p.runtime.release());
        return Status(Code::engine, text("TensorRT does not start: ", p.log.take(), "."));
    }
    // A version-compatible plan contains host code of its TensorRT, and perhaps the plugin; its SHA-256 was
    // checked.
    if (const auto found = entry.target.find("version_compatible"); found != entry.target.end())
        allow_host_code(*p.runtime, found->second == "true");
    for (const auto& plugin : plugins)
        if (!load_plugin_library(*p.runtime, p.log, plugin.path.c_str()))
            return Status(Code::plugin,
                          text("TensorRT ", version_text(library_version()),
                               " cannot load the plugin library ", plugin.name, ": ", p.log.take(),
                               ". Build it for this machine: `tokfilter plugin build`."));
    p.engine.reset(p.runtime->deserializeCudaEngine(bytes.data(), bytes.size()));
    if (!p.engine) {
        const std::string message = p.log.take();
        std::string built;
        for (const auto& [key, value] : entry.target)
            built += text(built.empty() ? "" : ", ", printable(key), " ", printable(value));
        return Status(
            Code::version,
            text("TensorRT ", version_text(library_version()), " refuses ", path, ": ", message,
                 ". It was built for ", built.empty() ? "an unknown target" : built, ". ", remedy(message)));
    }
    p.slots = p.has(kSlots);
    p.indices = p.has(kIndices);
    for (int i = 0; p.has(kImages) && i < p.engine->getNbOptimizationProfiles(); ++i)
        p.profiles.push_back({i, profile_range(*p.engine, kImages, i),
                              p.slots ? std::optional(profile_range(*p.engine, kSlots, i)) : std::nullopt});
    p.context.reset(p.engine->createExecutionContext());
    if (!p.context)
        return Status(Code::memory, text("no execution context for ", path, ": ", p.log.take(),
                                         ". Is the GPU's memory full? End what else runs there."));
    return Plan(std::move(parts));
}

Status Plan::check(const Card& card) const {
    using nvinfer1::DataType;
    using nvinfer1::TensorIOMode;
    const bool floats = card.preprocess.form == InputForm::floats;
    const auto sizes_of_images = card.preprocess.shape(-1);
    struct Tensor {
        const char* name;
        TensorIOMode mode;
        DataType type;
        std::vector<std::int64_t> sizes;
        bool optional;
    };
    const std::array<Tensor, 4> all{{
        {kImages,
         TensorIOMode::kINPUT,
         floats ? DataType::kFLOAT : DataType::kUINT8,
         {sizes_of_images.begin(), sizes_of_images.end()},
         false},
        {kSlots, TensorIOMode::kINPUT, DataType::kINT32, {-1}, true},
        {output_name(card.embeds), TensorIOMode::kOUTPUT, DataType::kFLOAT, {-1, card.classes}, false},
        {kIndices, TensorIOMode::kOUTPUT, DataType::kINT32, {-1, -1}, true},
    }};
    int known = 0;
    for (const Tensor& expected : all) {
        if (!parts_->has(expected.name) && expected.optional) continue;
        const bool found = parts_->has(expected.name);
        const auto sizes =
            found ? sizes_of(parts_->engine->getTensorShape(expected.name)) : std::vector<std::int64_t>();
        if (!found || parts_->engine->getTensorIOMode(expected.name) != expected.mode ||
            parts_->engine->getTensorDataType(expected.name) != expected.type || !fits(sizes, expected.sizes))
            return {Code::manifest,
                    text(parts_->path, " expects ", expected.name, " of shape ", shape_text(expected.sizes),
                         type_name(expected.type), ", got ", found ? shape_text(sizes) : "none",
                         " or another type or direction. Export again.")};
        ++known;
    }
    if (known != parts_->engine->getNbIOTensors())
        return {Code::manifest,
                text(parts_->path, " has inputs or outputs that are not tokfilter's. Export again.")};
    return {};
}

Status Plan::set_shapes(const Info& info, std::int64_t batch, std::int64_t tokens, Stream stream) {
    Parts& p = *parts_;
    if (p.batch == batch && p.tokens == tokens) return {};
    const auto profile = serving_profile(p.profiles, batch, tokens);
    if (!profile.ok()) return profile.status();
    p.batch = p.tokens = 0;  // whatever fails below leaves no half-set context in use
    if (profile->index != p.profile && !p.context->setOptimizationProfileAsync(profile->index, stream))
        return p.failed("choose a profile");
    p.profile = profile->index;
    const auto images = info.preprocess.shape(batch);
    if (!p.context->setInputShape(kImages, dims_of(images[0], images[1], images[2], images[3])) ||
        (p.slots && !p.context->setInputShape(kSlots, dims_of(tokens))))
        return p.failed("set the input shapes");
    // The caller made room for these; a plan that writes more must not run.
    if (sizes_of(p.context->getTensorShape(output_name(info.embeds))) != std::vector{batch, info.classes} ||
        (p.indices && sizes_of(p.context->getTensorShape(kIndices)) != std::vector{batch, tokens}))
        return p.failed("infer the output shapes");
    p.batch = batch;
    p.tokens = tokens;
    return {};
}

Status Plan::enqueue(const Bindings& bindings, const Info& info, std::int64_t batch, std::int64_t tokens,
                     Stream stream) {
    if (Status status = set_shapes(info, batch, tokens, stream); !status.ok()) return status;
    Parts& p = *parts_;
    if (!p.context->setInputTensorAddress(kImages, bindings.images) ||
        !p.context->setTensorAddress(output_name(info.embeds), bindings.logits) ||
        (p.slots && !p.context->setTensorAddress(kSlots, bindings.slots)) ||
        (p.indices && !p.context->setTensorAddress(kIndices, bindings.indices)))
        return p.failed("set the addresses");
    if (!p.context->enqueueV3(stream)) return p.failed("enqueue the inference");
    return {};
}

}  // namespace tokfilter
