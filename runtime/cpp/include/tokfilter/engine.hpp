// A filtered Vision Transformer on TensorRT: open an export directory, classify images at a budget of tokens.
//
//     auto engine = tokfilter::Engine::open("out/");
//     if (!engine.ok()) return report(engine.status().message());
//     auto output = engine->classify(images, batch, 98);  // 98 tokens of each image
//
// Nothing here throws: what fails, running out of memory included, is a Status. TensorRT's headers are not
// needed.
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
    int device = 0;           ///< CUDA's number of the GPU
};

/// (low, best, high), low and high included; best is what the plan was tuned for.
struct Range {
    std::int64_t low = 1;
    std::int64_t best = 1;
    std::int64_t high = 1;
};

/// What an open engine serves.
struct Info {
    std::string plan;  ///< path of the file
    std::int64_t height = 0;
    std::int64_t width = 0;
    std::int64_t classes = 0;
    std::int64_t patches = 0;  ///< patch tokens of an image
    Range batch;
    Range budget;                          ///< in patch tokens; best is the default
    bool has_indices = false;              ///< whether the plan tells which tokens were kept
    std::vector<std::string> class_names;  ///< may be empty
    Preprocess preprocess;
};

/// One call: host memory for run, device memory for enqueue.
struct Call {
    const float* images = nullptr;        ///< [B, 3, H, W], normalised, contiguous
    std::array<std::int64_t, 4> shape{};  ///< B, 3, H, W
    std::int64_t tokens = 0;              ///< budget in patch tokens; 0: the default
    float* logits = nullptr;              ///< [B, classes]
    std::size_t logits_room = 0;          ///< how many floats fit
    std::int32_t* indices = nullptr;      ///< [B, tokens], positions of the kept patches; may be null
    std::size_t indices_room = 0;         ///< how many fit
    Stream stream = nullptr;              ///< null: the engine's own
};

/// Where the time of one run went, in milliseconds, by CUDA events.
struct Timing {
    float h2d_ms = 0;
    float compute_ms = 0;
    float d2h_ms = 0;
};

/// What one run gave.
struct Output {
    std::int64_t batch = 0;
    std::int64_t classes = 0;
    std::int64_t tokens = 0;
    std::vector<float> logits;          ///< [batch, classes]
    std::vector<std::int32_t> indices;  ///< [batch, tokens]; empty from a full model
    Timing timing;
};

/// One plan on one GPU. Movable. Calls from several threads are safe, but not served: whoever comes while
/// another thread is in a call gets Code::busy, so open one Engine per thread or put a queue before it.
/// Moving and destroying must not race with calls.
class TOKFILTER_API Engine {
  public:
    /// Check the manifest's promises (SHA-256 of plan and plugin, target), load the plan. Any Code but closed
    /// and busy.
    static Result<Engine> open(const std::string& directory, const Options& options = {}) noexcept;

    Engine(Engine&& other) noexcept;
    Engine& operator=(Engine&& other) noexcept;
    ~Engine();

    /// What this engine serves. Code::closed.
    Result<Info> info() const noexcept;

    /// Classify images in host memory and wait. images: [batch, 3, H, W].
    Result<Output> classify(const std::vector<float>& images, std::int64_t batch,
                            std::int64_t tokens = 0) noexcept;

    /// The same into the caller's host memory.
    Status run(const Call& call, Timing* timing = nullptr) noexcept;

    /// Put the classification of images in device memory on the call's stream and return at once: inputs and
    /// outputs belong to the engine until the stream has passed. NaN in the images is not looked for.
    Status enqueue(const Call& call) noexcept;

    /// Release everything. A second close does nothing. Code::busy: a call is running, and the engine stays
    /// open.
    Status close() noexcept;

  private:
    struct State;
    explicit Engine(std::unique_ptr<State> state) noexcept;
    std::unique_ptr<State> state_;
};

/// Which TensorRT this library was compiled with and which one it has loaded.
struct Versions {
    std::string tokfilter;
    std::string runtime;  ///< tensorrt or tensorrt-rtx: which plans of a directory it takes
    std::string headers;  ///< e.g. 10.14.1
    std::string library;
    std::string misfit;  ///< why the two cannot work together; empty where they can
};

/// All empty when there is no memory for the texts.
TOKFILTER_API Versions versions() noexcept;

}  // namespace tokfilter
