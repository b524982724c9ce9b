// The one file, with its .cpp and tensorrt_api, that calls TensorRT.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "choose.hpp"

namespace tokfilter {

/// TensorRT's number of the headers that this was compiled with, e.g. 101401.
std::int64_t header_version() noexcept;

/// The same of the library that is loaded. A plain C function: safe to call whatever the versions are.
std::int64_t library_version() noexcept;

/// tensorrt or tensorrt-rtx: the kind of plans that this library opens.
const char* runtime_name() noexcept;

/// Device memory that a plan reads and writes.
struct Bindings {
    const void* images = nullptr;   ///< in the plan's form
    std::int32_t* slots = nullptr;  ///< values are not read; used if the plan has this input
    float* logits = nullptr;
    std::int32_t* indices = nullptr;  ///< used if the plan has this output
};

/// A plugin library: its name for messages, and the path of its checked bytes.
struct Library {
    std::string name;
    std::filesystem::path path;
};

/// A deserialized plan with one execution context. Not thread-safe.
class Plan {
  public:
    /// path: for messages. plugins: checked libraries, loaded into this plan's registry first.
    /// Code::plugin, Code::version, Code::engine; the message has TensorRT's log, the plan's target and a
    /// remedy.
    static Result<Plan> load(const std::vector<char>& bytes, const std::string& path, const Entry& entry,
                             const std::vector<Library>& plugins);
    Plan(Plan&&) noexcept;
    Plan& operator=(Plan&&) noexcept;
    ~Plan();

    const std::vector<Profile>& profiles() const noexcept;
    bool has_slots() const noexcept;
    bool has_indices() const noexcept;

    /// Check names, types and shapes of inputs and outputs against the model card. Code::manifest.
    Status check(const Card& card) const;

    /// Enqueue one inference. The caller orders it after the context's previous inference.
    Status enqueue(const Bindings& bindings, const Info& info, std::int64_t batch, std::int64_t tokens,
                   Stream stream);

  private:
    struct Parts;
    explicit Plan(std::unique_ptr<Parts> parts) noexcept;
    Status set_shapes(const Info& info, std::int64_t batch, std::int64_t tokens, Stream stream);
    std::unique_ptr<Parts> parts_;
};

}  // namespace tokfilter
