#include "version.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <utility>

#include "text.hpp"

namespace tokfilter {
namespace {

constexpr auto kBuildAgain = "Build it again on this machine: `tokfilter engine`.";

// Word in TensorRT's log -> remedy; the first word found counts. The same table as LOAD_REMEDIES in
// trt/remedies.py: a test compares the two.
constexpr auto kDamaged =
    "The file is damaged, no plan, or a plan of another TensorRT. Build it again on this machine: `tokfilter "
    "engine`.";
constexpr auto kMemory = "Free device memory: other processes may hold it.";
constexpr std::array<std::pair<const char*, const char*>, 12> kRemedies{{
    {"plugin", "The plan needs tokfilter's plugin: `tokfilter plugin build`, then `tokfilter engine`."},
    {"magictag", kDamaged},
    {"magic tag", kDamaged},
    {"buffersize", kDamaged},
    {"blobsize", kDamaged},
    {"e.offset", kDamaged},
    {"empty memory buffer", kDamaged},
    {"driver version is insufficient",
     "Install the NVIDIA driver, or update it: `tokfilter doctor` shows it."},
    {"version",
     "The plan is of another TensorRT version. Build it again on this machine: `tokfilter engine`."},
    {"outofmemory", kMemory},
    {"out of memory", kMemory},
    {"incompatible device",
     "The plan is for another GPU. Build it again on this machine: `tokfilter engine`."},
}};

using Release = std::array<int, 3>;  // major, minor, patch

// TensorRT 8.6.1 is 8601, 10.14.1 is 101401; TensorRT-RTX 1.7.1 is 10701 (NV_TENSORRT_VERSION in the
// headers).
Release release(std::int64_t number) {
    const auto at = [&](std::int64_t unit, std::int64_t size) {
        return static_cast<int>(number / unit % size);
    };
    return number < 10000 ? Release{at(1000, 10), at(100, 10), at(1, 100)}
                          : Release{at(10000, 1000), at(100, 100), at(1, 100)};
}

// A fourth number, the build, makes no difference to a plan.
Release release(const std::string& version) {
    Release numbers{};
    const char* at = version.data();
    const char* const end = at + version.size();
    for (int& number : numbers) {
        at = std::from_chars(at, end, number).ptr;
        if (at != end) ++at;  // the dot
    }
    return numbers;
}

// "NVIDIA H100, 9.0" -> "9.0"; empty where no compute capability is stated.
std::string capability_of(const std::string& gpu) {
    const std::size_t comma = gpu.rfind(", ");
    return comma == std::string::npos ? "" : gpu.substr(comma + 2);
}

// Whether a version-compatible plan of `there` runs in `here`. Source: support matrix of TensorRT 11.4,
// "engine portability": across major versions only 8 in 10, and 10 in 11.
bool runs_later(const Release& there, const Release& here) {
    if (there[0] == here[0]) return there <= here;
    return (there[0] == 8 && here[0] == 10) || (there[0] == 10 && here[0] == 11);
}

std::string name_of(const std::string& runtime) {
    return runtime == "tensorrt-rtx" ? "TensorRT-RTX" : "TensorRT";
}

}  // namespace

std::string version_text(std::int64_t number) {
    const Release parts = release(number);
    return text(parts[0], ".", parts[1], ".", parts[2]);
}

std::string misfit(std::int64_t headers, std::int64_t library, const std::string& runtime) {
    const Release compiled = release(headers), loaded = release(library);
    if (compiled[0] == loaded[0] && compiled[1] <= loaded[1]) return "";
    return text("tokfilter was compiled with headers of version ", version_text(headers), " and has loaded ",
                name_of(runtime), " ", version_text(library),
                ": ABI mismatch. A library of the same major version that is not older is required. Build "
                "tokfilter again on this machine.");
}

Status check_target(const Target& target, const Machine& machine) {
    const auto stated = [&](const char* key) {
        const auto found = target.find(key);
        return found == target.end() || found->second == "null" ? std::string()
                                                                : printable(found->second, 4000);
    };
    const std::string version = stated("version");
    const bool later_too = stated("version_compatible") == "true";
    const auto here = release(machine.library), there = release(version);
    if (!version.empty() && (later_too ? !runs_later(there, here) : here != there))
        return {Code::version, text("the plan was built with ", name_of(machine.runtime), " ", version,
                                    ", and this machine has ", machine.library, ". ", kBuildAgain)};
    const std::string gpu = stated("gpu"), hardware = stated("hardware");
    const bool any_gpu = !hardware.empty() && hardware != "none";
    if (const std::string wanted = capability_of(gpu);
        !wanted.empty() && !any_gpu && wanted != machine.capability)
        return {Code::version,
                text("the plan was built for a GPU of compute capability ", wanted, " (", gpu,
                     "), and this is ", machine.gpu, ", ", machine.capability, ". ", kBuildAgain)};
    std::string name = "SM" + machine.capability;
    name.erase(std::remove(name.begin(), name.end(), '.'), name.end());
    const std::string all = stated("compute_capabilities");  // a list as JSON, or "all"
    if (all.find("SM") != std::string::npos && all.find('"' + name + '"') == std::string::npos)
        return {Code::version, text("the plan was built for GPUs of ", all, ", and this is ", machine.gpu,
                                    ", ", name, ". ", kBuildAgain)};
    return {};
}

std::string remedy(const std::string& log) {
    std::string lower = log;
    std::transform(lower.begin(), lower.end(), lower.begin(),
                   [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
    for (const auto& [word, what] : kRemedies)
        if (lower.find(word) != std::string::npos) return what;
    return kBuildAgain;
}

}  // namespace tokfilter
