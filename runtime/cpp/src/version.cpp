#include "version.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include "text.hpp"

namespace tokfilter {
namespace {

// What TensorRT's log says -> what to do about it; the first word found counts.
constexpr std::array<std::pair<const char*, const char*>, 4> kRemedies{{
    {"plugin",
     "The plan holds tokfilter's plugin: put its library into the export directory (`tokfilter export` "
     "does)."},
    {"version",
     "The plan is of another TensorRT version: build it again on this machine with `tokfilter export`."},
    {"incompatible device",
     "The plan is for another GPU: build it again on this machine with `tokfilter export`."},
    {"compute", "The plan is for another GPU: build it again on this machine with `tokfilter export`."},
}};

// The first three numbers: a fourth, the build, makes no difference to a plan.
std::string release(const std::string& version) {
    std::size_t end = 0;
    for (int dots = 0; end < version.size(); ++end)
        if (version[end] == '.' && ++dots == 3) break;
    return version.substr(0, end);
}

std::string name_of(const std::string& runtime) {
    return runtime == "tensorrt-rtx" ? "TensorRT-RTX" : "TensorRT";
}

}  // namespace

std::string version_text(std::int64_t number) {
    return text(number / 10000, ".", number / 100 % 100, ".", number % 100);
}

std::string misfit(std::int64_t headers, std::int64_t library, const std::string& runtime) {
    if (headers / 10000 == library / 10000 && headers / 100 <= library / 100) return "";
    return text(
        "tokfilter was compiled with headers of version ", version_text(headers), " and has loaded ",
        name_of(runtime), " ", version_text(library),
        ": calls would go astray. It wants a library of the same major version, and no older one. Build "
        "tokfilter again on this machine.");
}

Status check_target(const std::map<std::string, std::string>& target, const Machine& machine) {
    const auto stated = [&](const char* key) {
        const auto found = target.find(key);
        return found == target.end() || found->second == "null" ? std::string() : found->second;
    };
    const std::string version = stated("version");
    const bool any_later = stated("version_compatible") == "true";
    if (!version.empty() && !any_later && release(version) != release(machine.library))
        return {Code::version, text("the plan was built with ", name_of(machine.runtime), " ", version,
                                    ", and this machine has ", machine.library,
                                    ". Build it again on this machine with `tokfilter export`.")};
    const std::string capability = stated("compute_capability");
    const std::string hardware = stated("hardware_compatibility");
    if (!capability.empty() && (hardware.empty() || hardware == "none") && capability != machine.capability)
        return {Code::version, text("the plan was built for a GPU of compute capability ", capability, " (",
                                    stated("gpu").empty() ? "unnamed" : stated("gpu"), "), and this is ",
                                    machine.gpu, " with ", machine.capability,
                                    ". Build it again on this machine with `tokfilter export`.")};
    return {};
}

std::string remedy(const std::string& said) {
    std::string lower = said;
    std::transform(lower.begin(), lower.end(), lower.begin(),
                   [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
    for (const auto& [word, what] : kRemedies)
        if (lower.find(word) != std::string::npos) return what;
    return "Build it again on this machine with `tokfilter export`.";
}

}  // namespace tokfilter
