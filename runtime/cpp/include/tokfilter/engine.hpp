// A filtered Vision Transformer on TensorRT: open an export directory, classify images with a budget of
// tokens.
//
//     auto engine = tokfilter::Engine::open("out/");
//     if (!engine.ok()) return report(engine.status().message());
//     auto output = engine->classify(images, batch, 98);  // 98 tokens of each image
//
// A budget is a count of patch tokens, an integer from 1 to Info::patches; 0 is the default budget. For a
// ratio r in (0, 1], pass the count r * Info::patches, rounded.
//
// No function throws: every error, out of memory included, is a Status. TensorRT's headers are not needed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tokfilter/image.hpp"
#include "tokfilter/status.hpp"

struct CUstream_st;

namespace tokfilter {

using Stream = CUstream_st*;  ///< CUDA's cudaStream_t

enum class Role { filtered, full };  ///< full: the same weights with every token, for comparison

struct Options {
    Role role = Role::filtered;
    std::string precision = "fp32";  ///< fp32, fp16 or bf16, as exported
    std::int64_t tokens = 0;  ///< count of patch tokens: a plan made for it comes first; 0: no preference
    int device = 0;           ///< CUDA device index
};

/// (low, best, high), low and high included; the plan is tuned for best.
struct Range {
    std::int64_t low = 1;
    std::int64_t best = 1;
    std::int64_t high = 1;
};

/// Properties of an open engine.
struct Info {
    std::string plan;  ///< path of the file
    std::int64_t height = 0;
    std::int64_t width = 0;
    std::int64_t classes = 0;  ///< or numbers of the embedding
    bool embeds = false;       ///< whether the model gives an embedding in place of logits
    std::int64_t patches = 0;  ///< patch tokens of an image
    Range batch;
    Range budget;                          ///< in patch tokens; best is the default
    bool has_indices = false;              ///< whether the plan outputs the kept indices
    std::vector<std::string> class_names;  ///< may be empty
    Preprocess preprocess;
};

/// One call: host memory for run, device memory for enqueue.
struct Call {
    const float* images = nullptr;         ///< normalised, contiguous; null where the plan takes pixels
    const std::uint8_t* pixels = nullptr;  ///< 8-bit, contiguous, for a plan that takes them
    std::array<std::int64_t, 4> shape{};   ///< B, 3, H, W; B, H, W, 3 for InputForm::uint8_nhwc
    std::int64_t tokens = 0;               ///< budget: count of patch tokens; 0: the default
    float* logits = nullptr;               ///< [B, classes], or the embedding
    std::size_t logits_room = 0;           ///< capacity in floats
    std::int32_t* indices = nullptr;       ///< [B, tokens], positions of the kept patches; may be null
    std::size_t indices_room = 0;          ///< capacity in int32
    Stream stream = nullptr;               ///< null: the engine's own
};

/// Times of one run in milliseconds, from CUDA events.
struct Timing {
    float h2d_ms = 0;
    float compute_ms = 0;
    float d2h_ms = 0;
};

/// Result of one run.
struct Output {
    std::int64_t batch = 0;
    std::int64_t classes = 0;
    std::int64_t tokens = 0;
    std::vector<float> logits;          ///< [batch, classes], or the embedding
    std::vector<std::int32_t> indices;  ///< [batch, tokens]; empty from a full model
    Timing timing;
};

/// One plan on one GPU. Movable. One call at a time: a call during another thread's call returns Code::busy.
/// Open one Engine per thread, or use a queue. Do not move or destroy an Engine during a call.
class TOKFILTER_API Engine {
  public:
    /// Check the files against the manifest (SHA-256 of plan and plugin, target) and load the plan. Any Code
    /// but closed and busy.
    static Result<Engine> open(const std::string& directory, const Options& options = {}) noexcept;

    Engine(Engine&& other) noexcept;
    Engine& operator=(Engine&& other) noexcept;
    ~Engine();

    /// Properties of this engine. Code::closed.
    Result<Info> info() const noexcept;

    /// Classify images in host memory and wait for the result. images: [batch, 3, H, W], normalised.
    Result<Output> classify(const std::vector<float>& images, std::int64_t batch,
                            std::int64_t tokens = 0) noexcept;

    /// The same for a plan that takes pixels, in the order of `info().preprocess.form`.
    Result<Output> classify_pixels(const std::vector<std::uint8_t>& pixels, std::int64_t batch,
                                   std::int64_t tokens = 0) noexcept;

    /// The same into the caller's host memory.
    Status run(const Call& call, Timing* timing = nullptr) noexcept;

    /// Enqueue the classification of images in device memory on the call's stream and return at once. Inputs
    /// and outputs must stay valid until the stream has executed it. Images are not checked for NaN.
    Status enqueue(const Call& call) noexcept;

    /// Release all resources. A second close does nothing. Code::busy: a call is running; the engine stays
    /// open.
    Status close() noexcept;

  private:
    struct State;
    explicit Engine(std::unique_ptr<State> state) noexcept;
    template <class Value>
    Result<Output> classify_values(const std::vector<Value>& images, std::int64_t batch, std::int64_t tokens);
    std::unique_ptr<State> state_;
};

/// Versions of TensorRT: of the headers at compile time and of the loaded library.
struct Versions {
    std::string tokfilter;
    std::string runtime;  ///< tensorrt or tensorrt-rtx: the kind of plans that it opens
    std::string headers;  ///< e.g. 10.14.1
    std::string library;
    std::string misfit;  ///< error message if the two are incompatible, else empty
};

/// All fields are empty if there is no memory for them.
TOKFILTER_API Versions versions() noexcept;

}  // namespace tokfilter
