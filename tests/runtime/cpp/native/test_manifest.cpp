// Reading manifest.json: valid content, and damage of every kind.
#include <doctest/doctest.h>

#include "directory.hpp"
#include "manifest.hpp"

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

TEST_CASE("another format or version is refused by name") {
    CHECK_STATUS(changed("/format", R"("safetensors")"), Code::manifest, "is not a manifest of tokfilter");
    CHECK_STATUS(changed("/version", "2"), Code::manifest, "manifest version 2", "reads 1", "Export again");
    CHECK_STATUS(changed("/version", R"("1")"), Code::manifest, "manifest version \"1\"");
}

TEST_CASE("a file outside the directory is refused") {
    for (const char* path : {"/etc/passwd", "../model.plan", "a/../../model.plan", ""})
        CHECK_STATUS(changed("/files/0/path", std::string("\"") + path + "\""), Code::manifest, "is damaged",
                     "is outside the directory");
    CHECK_STATUS(changed("/files/0/path", R"("a\u0000b")"), Code::manifest, "holds a NUL");
    CHECK(changed("/files/0/path", R"("sub/model.plan")").ok());
}

TEST_CASE("wrong types and values are errors") {
    for (const auto& [place, value] : std::vector<std::pair<const char*, const char*>>{
             {"/files", "3"},
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
    CHECK_STATUS(manifest_from_text("[]", "m").status(), Code::manifest, "not a manifest of tokfilter");
    CHECK_STATUS(manifest_from_text("\xff\xfe", "m").status(), Code::manifest, "damaged");
}
