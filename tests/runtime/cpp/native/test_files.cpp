// Files are used only when their SHA-256 and size match the manifest.
#include <doctest/doctest.h>

#include "directory.hpp"
#include "files.hpp"
#include "manifest.hpp"

using testing::Directory;
using tokfilter::Code;

TEST_CASE("SHA-256 of the standard's examples") {  // FIPS 180-4
    CHECK(tokfilter::sha256("", 0) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(tokfilter::sha256("abc", 3) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST_CASE("a changed, longer, shorter or missing file is refused") {
    Directory directory;
    directory.write();
    const auto manifest = tokfilter::load_manifest(directory.path());
    REQUIRE(manifest.ok());
    const auto& entry = manifest->files.at(0);
    const auto check = [&] { return tokfilter::checked_bytes(directory.path(), entry); };
    const std::string good = directory.plan();
    const auto put = [&](const std::string& content) { directory.put("model.plan", content, false); };
    const auto content = check();
    REQUIRE(content.ok());
    CHECK(std::string(content->begin(), content->end()) == good);
    for (std::size_t i = 0; i < good.size(); i += 13) {
        std::string bad = good;
        bad[i] = static_cast<char>(bad[i] ^ 1);
        put(bad);
        CHECK_STATUS(check().status(), Code::changed_file, "model.plan is not the file",
                     "bytes have changed");
    }
    for (const std::string& bad : {good + " ", good.substr(1), std::string()}) {
        put(bad);
        CHECK_STATUS(check().status(), Code::changed_file, "bytes have changed", "Export again");
    }
    std::filesystem::remove(directory.file("model.plan"));
    CHECK_STATUS(check().status(), Code::changed_file, "is missing, though manifest.json lists it");
    std::filesystem::create_directory(directory.file("model.plan"));
    CHECK_STATUS(tokfilter::checked_path(directory.path(), entry).status(), Code::changed_file, "is missing");
}
