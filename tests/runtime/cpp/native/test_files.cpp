// Files are used only when their SHA-256 and size match the manifest.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <fstream>
#include <iterator>

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
    CHECK_STATUS(tokfilter::checked_library(directory.path(), entry).status(), Code::changed_file,
                 "is no regular file");
    std::filesystem::remove(directory.file("model.plan"));
    REQUIRE(mkfifo(directory.file("model.plan").c_str(), 0600) == 0);
    CHECK_STATUS(check().status(), Code::changed_file, "is no regular file");
}

TEST_CASE("a sparse file of any size is not read") {
    Directory directory;
    directory.write();
    auto entry = tokfilter::load_manifest(directory.path())->files.at(0);
    entry.bytes = std::uintmax_t{1} << 40;
    std::filesystem::resize_file(directory.file("model.plan"), entry.bytes);
    CHECK_STATUS(tokfilter::checked_bytes(directory.path(), entry).status(), Code::changed_file,
                 "at most 8 GiB");
}

TEST_CASE("a checked library keeps its bytes and its path; other bytes get another path") {
    Directory directory;
    directory.write();
    auto first = tokfilter::load_manifest(directory.path())->files.at(0);
    const std::string good = directory.plan();
    const auto content = [](const std::filesystem::path& path) {
        std::ifstream file(path, std::ios::binary);
        return std::string{std::istreambuf_iterator<char>(file), {}};
    };
    const auto path = tokfilter::checked_library(directory.path(), first);
    REQUIRE(path.ok());
    directory.put("model.plan", good + " ", false);
    CHECK(content(*path) == good);
    CHECK_FALSE(std::ofstream(*path, std::ios::in | std::ios::out).put('x').flush());
    CHECK(content(*path) == good);
    CHECK_FALSE(tokfilter::checked_library(directory.path(), first).ok());
    auto second = first;
    second.bytes += 1;
    second.sha256 = tokfilter::sha256((good + " ").data(), good.size() + 1);
    const auto other = tokfilter::checked_library(directory.path(), second);
    REQUIRE(other.ok());
    CHECK(*other != *path);
    CHECK(content(*other) == good + " ");
    directory.put("model.plan", good, false);
    CHECK(*tokfilter::checked_library(directory.path(), first) == *path);
}
