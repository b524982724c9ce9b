#include "directory.hpp"

#include <stdlib.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "files.hpp"

namespace testing {
namespace {

using Json = nlohmann::json;

constexpr auto kManifest = R"({
    "format": "tokfilter-export", "version": 1, "choice": {},
    "model": {
        "architecture": "vit", "input_size": [3, 8, 6], "patches": 12, "prefix_tokens": 1, "classes": 5,
        "class_names": ["ant", "bee", "cat", "dog", "eel"], "keep": 6, "macs": {},
        "preprocessing": {"input_size": [3, 8, 6], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
                          "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"}},
    "files": [{"path": "model.plan", "role": "filtered", "runtime": "tensorrt", "precision": "fp32", "budget": null,
               "batch_range": [1, 2, 4], "budget_range": [2, 6, 12], "target": {}}]})";

constexpr auto kPlan = R"({"size": [8, 6], "classes": 5, "patches": 12,
                           "profiles": [{"batch": [1, 2, 4], "budget": [2, 6, 12]}]})";

}  // namespace

ScopedEnv::ScopedEnv(const char* name, const std::string& value) : name_(name) {
    setenv(name, value.c_str(), 1);
}
ScopedEnv::~ScopedEnv() { unsetenv(name_); }

struct Directory::Content {
    std::filesystem::path path;
    Json manifest = Json::parse(kManifest);
    Json plan = Json::parse(kPlan);

    // Make the entry of this path, if there is one, describe these bytes.
    void describe(const std::string& name, const std::string& bytes) {
        for (Json& entry : manifest["files"])
            if (entry["path"] == name) {
                entry["sha256"] = tokfilter::sha256(bytes.data(), bytes.size());
                entry["bytes"] = bytes.size();
            }
    }
};

Directory::Directory() : content_(std::make_unique<Content>()) {
    std::string name = (std::filesystem::temp_directory_path() / "tokfilter-XXXXXX").string();
    content_->path = mkdtemp(name.data());
}

Directory::~Directory() { std::filesystem::remove_all(content_->path); }

void Directory::set(const std::string& place, const std::string& value) {
    content_->manifest[Json::json_pointer(place)] = Json::parse(value);
}

void Directory::set_plan(const std::string& place, const std::string& value) {
    content_->plan[Json::json_pointer(place)] = Json::parse(value);
}

void Directory::add_plugin(const std::string& library) {
    content_->manifest["files"].push_back({{"path", "libplugin.so"}, {"role", "plugin"}});
    std::ifstream file(library, std::ios::binary);
    put("libplugin.so", {std::istreambuf_iterator<char>(file), {}}, true);
}

std::string Directory::write() {
    put("model.plan", plan(), true);
    put("manifest.json", manifest(), false);
    return path();
}

std::string Directory::manifest() const { return content_->manifest.dump(); }
std::string Directory::plan() const { return content_->plan.dump(); }

void Directory::put(const std::string& name, const std::string& bytes, bool described) {
    std::ofstream(file(name), std::ios::binary) << bytes;
    if (described) content_->describe(name, bytes);
}

std::string Directory::path() const { return content_->path.string(); }
std::filesystem::path Directory::file(const std::string& name) const { return content_->path / name; }

tokfilter::Result<tokfilter::Engine> Directory::open(const tokfilter::Options& options) {
    return tokfilter::Engine::open(write(), options);
}

}  // namespace testing
