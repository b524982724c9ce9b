#include "files.hpp"

#include <openssl/evp.h>

#include <array>
#include <fstream>

#include "text.hpp"

namespace tokfilter {

std::string sha256(const void* data, std::size_t size) {
    std::array<unsigned char, 32> digest{};
    unsigned int length = 0;
    if (EVP_Digest(data, size, digest.data(), &length, EVP_sha256(), nullptr) != 1) return "";
    std::string hexadecimal;
    for (const unsigned char byte : digest) {
        hexadecimal += "0123456789abcdef"[byte >> 4u];
        hexadecimal += "0123456789abcdef"[byte & 15u];
    }
    return hexadecimal;
}

Result<std::vector<char>> checked_bytes(const std::filesystem::path& directory, const Entry& entry) {
    const auto path = directory / entry.path;
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error))
        return Status(Code::changed_file,
                      text(path.string(), " is missing, though manifest.json lists it. Export again."));
    const Status changed(Code::changed_file,
                         text(path.string(),
                              " is not the file that manifest.json describes: its bytes have changed. "
                              "Export again."));
    if (std::filesystem::file_size(path, error) != entry.bytes || error) return changed;
    std::vector<char> content(entry.bytes);
    std::ifstream file(path, std::ios::binary);
    if (!file.read(content.data(), static_cast<std::streamsize>(content.size())))
        return Status(Code::changed_file, text(path.string(), " cannot be read: check its permissions."));
    if (sha256(content.data(), content.size()) != entry.sha256) return changed;
    return content;
}

Result<std::filesystem::path> checked_path(const std::filesystem::path& directory, const Entry& entry) {
    const auto content = checked_bytes(directory, entry);
    if (!content.ok()) return content.status();
    return directory / entry.path;
}

}  // namespace tokfilter
