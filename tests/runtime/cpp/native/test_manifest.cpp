// Reading manifest.json: valid content, and damage of every kind.
#include <doctest/doctest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "directory.hpp"
#include "manifest.hpp"
#include "text.hpp"

using testing::Directory;
using tokfilter::Code;
using tokfilter::manifest_from_text;

namespace {

// The manifest of a written directory, with one value changed.
tokfilter::Status changed(const char* place, const std::string& value) {
    Directory directory;
    directory.write();
    directory.set(place, value);
    return manifest_from_text(directory.manifest(), "manifest.json").status();
}

}  // namespace

TEST_CASE("the fields of a manifest are read") {
    Directory directory;
    directory.set("/files/0/target",
                  R"({"version": "10.14.1", "gpu": null, "compute_capabilities": ["SM87"]})");
    directory.set("/choice/tokens", "4");
    directory.write();
    const auto manifest = tokfilter::load_manifest(directory.path());
    REQUIRE(manifest.ok());
    CHECK(manifest->model.num_patches == 12);
    CHECK(manifest->model.keep == 6);
    CHECK(manifest->chosen_tokens == 4);
    CHECK(manifest->model.class_names.back() == "eel");
    CHECK(manifest->model.preprocess.width == 6);
    const auto& entry = manifest->files.at(0);
    CHECK(entry.budget_range->high == 12);
    CHECK(!entry.budget);
    CHECK(entry.target.at("compute_capabilities") == R"(["SM87"])");
    CHECK(entry.target.at("gpu") == "null");
    CHECK(entry.target.at("version") == "10.14.1");
}

TEST_CASE("unknown keys are ignored") {
    CHECK(changed("/model/later", "1").ok());
    CHECK(changed("/files/0/external", "{}").ok());
}

TEST_CASE("a missing directory and a missing manifest are named") {
    CHECK_STATUS(tokfilter::load_manifest("/nowhere").status(), Code::manifest,
                 "there is none at /nowhere/manifest.json", "tokfilter export");
    const Directory empty;
    CHECK_STATUS(tokfilter::load_manifest(empty.path()).status(), Code::manifest, "needs a manifest");
}

TEST_CASE("a model with another reducer than the filter is refused by its name") {
    CHECK_STATUS(changed("/model/reducer", R"({"name": "idle", "settings": {"stages": [2]}})"),
                 Code::manifest, "reduces tokens inside its blocks (idle)", "tokfilter.open_session");
    CHECK_STATUS(changed("/model/reducer", "7"), Code::manifest, "is damaged");
    CHECK(changed("/model/reducer", R"({"name": "filter", "settings": {}})").ok());
    CHECK(changed("/model/reducer", "null").ok());
}

TEST_CASE("a model that gives masks is refused by name") {
    CHECK_STATUS(changed("/model/output", R"({"name": "masks", "shape": [3, 16, 16]})"), Code::manifest,
                 "a model that gives masks", "tokfilter.open_session");
    CHECK_STATUS(changed("/model/output", "7"), Code::manifest, "is damaged");
    CHECK(changed("/model/output", "null").ok());
}

TEST_CASE("an embedding has the shape of its numbers and no class names") {
    const auto with = [](const char* shape, const char* names) {
        Directory directory;
        directory.set("/model/output", std::string(R"({"name": "embedding", "shape": )") + shape + "}");
        directory.set("/model/class_names", names);
        directory.write();
        return tokfilter::manifest_from_text(directory.manifest(), "manifest.json");
    };
    const auto read = with("[5]", "[]");
    REQUIRE_MESSAGE(read.ok(), read.status().message());
    CHECK(read->model.embeds);
    CHECK(read->model.classes == 5);
    CHECK_STATUS(with("[4]", "[]").status(), Code::manifest, "expects the shape [5]", "got [4]");
    CHECK_STATUS(with("[5, 1]", "[]").status(), Code::manifest, "got [5,1]");
    CHECK_STATUS(with("[5]", R"(["a", "b", "c", "d", "e"])").status(), Code::manifest, "and 5 names");
    CHECK_STATUS(changed("/model/output", R"({"name": "embedding"})"), Code::manifest, "is damaged");
}

TEST_CASE("another format or version is refused by name") {
    CHECK_STATUS(changed("/format", R"("safetensors")"), Code::manifest, "is not a manifest of tokfilter");
    CHECK_STATUS(changed("/version", "2"), Code::manifest, "manifest version 2", "reads 1", "Export again");
    CHECK_STATUS(changed("/version", R"("1")"), Code::manifest, "manifest version \"1\"");
}

TEST_CASE("what is no file name is refused, for files and plugins") {
    for (const char* path :
         {"/etc/passwd", "../model.plan", "a/../../model.plan", "", ".", "..", "sub/model.plan", "a\\\\b",
          "a\\u0000b", "a\\nb", "\\u001b]0;owned\\u0007", "\\u009b31m", "\\u202egnp.exe", "\\u2066x"})
        for (const char* place : {"/files/0/path", "/files/0/target/plugin"})
            CHECK_STATUS(changed(place, std::string("\"") + path + "\""), Code::manifest, "is damaged",
                         "must be the name of a file inside the directory");
    CHECK_STATUS(changed("/files/0/path", '"' + std::string(256, 'x') + '"'), Code::manifest,
                 "name of a file");
    CHECK_STATUS(changed("/files/0/path", R"("manifest.json")"), Code::manifest, "is the manifest");
    CHECK_STATUS(changed("/files/1", R"({"path": "model.plan", "role": "full", "bytes": 0, "sha256": ")" +
                                         std::string(64, '0') + R"("})"),
                 Code::manifest, "is listed twice");
    CHECK(changed("/files/0/path", R"("\u00e9 b.plan")").ok());
}

TEST_CASE("every hostile value at every place is read or refused with a printable sentence") {
    const std::vector<std::string> values{R"("../../victim/evil")",
                                          R"("\u001b[31m")",
                                          R"("\u009b31m")",
                                          R"("")",
                                          R"("a\nb")",
                                          R"x("$(reboot)")x",
                                          '"' + std::string(5000, 'x') + '"',
                                          "null",
                                          "true",
                                          "-1",
                                          "0",
                                          "1.5",
                                          "1e308",
                                          "1048577",
                                          "1e30",
                                          "18446744073709551615",
                                          "[]",
                                          "{}",
                                          "[[]]",
                                          "[1, 2]",
                                          "[3, 2, 1]",
                                          R"({"a": 1})",
                                          std::string(60, '[') + std::string(60, ']')};
    Directory directory;
    directory.write();
    const auto whole = nlohmann::json::parse(directory.manifest());
    int refused = 0;
    const auto flat = whole.flatten();
    for (const auto& [place, old] : flat.items()) {
        for (const std::string& value : values) {
            auto content = whole;
            content[nlohmann::json::json_pointer(place)] = nlohmann::json::parse(value);
            const auto manifest = manifest_from_text(content.dump(), "m");
            CAPTURE(place);
            CAPTURE(value.substr(0, 40));
            if (!manifest.ok()) {
                ++refused;
                CHECK(manifest.status().code() == Code::manifest);
                CHECK(manifest.status().message() == tokfilter::printable(manifest.status().message(), 1000));
                continue;
            }
            for (const auto& entry : manifest->files) {
                const auto path = std::filesystem::path("out") / entry.path;
                CHECK(path.lexically_normal().parent_path() == "out");
            }
        }
    }
    CHECK(refused > 300);
}

TEST_CASE("text from a file is made printable") {
    CHECK(tokfilter::printable("caf\u00e9 \u2713") == "caf\u00e9 \u2713");
    CHECK(tokfilter::printable("a\x1b[31m\n\x7f") == "a?[31m??");
    CHECK(tokfilter::printable("\u0085\u061c\u200e\u202e\u2066z") == "?????z");
    CHECK(tokfilter::printable(std::string(300, 'x')).size() == 200);
}

TEST_CASE("wrong types and values are errors") {
    for (const auto& [place, value] : std::vector<std::pair<const char*, const char*>>{
             {"/files", "3"},
             {"/files/0/role", R"("full\u001b")"},
             {"/files/0/runtime", R"("../x")"},
             {"/files/0/precision", R"("FP 32")"},
             {"/model/class_names", R"(["one"])"},
             {"/model/preprocessing/crop_pct", "1e-9"},
             {"/model/preprocessing/mean", "[1e300, 0, 0]"},
             {"/files/0", "[]"},
             {"/files/0/sha256", R"("abc")"},
             {"/files/0/bytes", "-1"},
             {"/files/0/bytes", "1e30"},
             {"/files/0/bytes", "18446744073709551615"},
             {"/files/0/budget", "0"},
             {"/files/0/budget_range", "[1, 2]"},
             {"/files/0/budget_range", "[5, 2, 9]"},
             {"/files/0/batch_range", "[0, 1, 2]"},
             {"/files/0/target", "4"},
             {"/model", "null"},
             {"/model/patches", R"("12")"},
             {"/model/patches", "12.5"},
             {"/model/keep", "13"},
             {"/model/keep", "0"},
             {"/model/keep", "0.5"},
             {"/model/keep", "true"},
             {"/model/keep", R"("50%")"},
             {"/model/classes", "0"},
             {"/model/classes", "1099511627776"},
             {"/model/class_names", "7"},
             {"/model/input_size", "[3, 8, 7]"},
             {"/model/preprocessing/input_size", "[1, 8, 6]"},
             {"/model/preprocessing/input_size", "[3, 0, 6]"},
             {"/model/preprocessing/mean", "[0.5, 0.5]"},
             {"/model/preprocessing/std", "[0.5, 0.0, 0.5]"},
             {"/model/preprocessing/std", "[0.5, null, 0.5]"},
             {"/model/preprocessing/crop_pct", "0"},
             {"/model/preprocessing/crop_mode", R"("middle")"},
             {"/model/preprocessing/interpolation", R"("cubic")"},
             {"/choice/tokens", "99"},
         }) {
        CAPTURE(place);
        CHECK_STATUS(changed(place, value), Code::manifest, "is damaged", "Export again");
    }
    CHECK_STATUS(changed("/files/0/sha256", '"' + std::string(64, 'X') + '"'), Code::manifest,
                 "64 hexadecimal digits");
}

TEST_CASE("text that is not JSON, truncated, or deeply nested") {
    Directory directory;
    directory.write();
    const std::string whole = directory.manifest();
    for (std::size_t length = 0; length < whole.size(); length += 97)
        CHECK_STATUS(manifest_from_text(whole.substr(0, length), "m").status(), Code::manifest,
                     "m is damaged");
    CHECK_STATUS(manifest_from_text(std::string(100'000, '['), "m").status(), Code::manifest, "damaged");
    const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
    CHECK_STATUS(manifest_from_text(R"({"format": )" + deep + "}", "m").status(), Code::manifest,
                 "nested too deep");
    CHECK_STATUS(manifest_from_text("[]", "m").status(), Code::manifest, "not a manifest of tokfilter");
    CHECK_STATUS(manifest_from_text("\xff\xfe", "m").status(), Code::manifest, "damaged");
}

TEST_CASE("a key twice in one object is refused, and in two objects it is not") {
    Directory directory;
    directory.write();
    const std::string whole = directory.manifest();
    CHECK(manifest_from_text(whole, "m").ok());
    for (const std::string place : {"{", R"("model":{)", R"("preprocessing":{)"}) {
        CAPTURE(place);
        auto twice = whole;
        const auto at = twice.find(place);
        REQUIRE(at != std::string::npos);
        twice.insert(at + place.size(), R"("keep":1,"keep":2,)");
        CHECK_STATUS(manifest_from_text(twice, "m").status(), Code::manifest,
                     "the key 'keep' more than once");
    }
}

TEST_CASE("more values than memory should be taken for are refused") {
    std::string many = R"({"format": [)";
    for (int i = 0; i < 4'000'000; ++i) many += "[],";
    CHECK_STATUS(manifest_from_text(many + "[]]}", "m").status(), Code::manifest,
                 "more than 4,000,000 values");
}
