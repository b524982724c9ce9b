// Reading files with a check of size and SHA-256 against the manifest.
#pragma once

#include <cstddef>
#include <filesystem>
#include <vector>

#include "manifest.hpp"

namespace tokfilter {

/// Hexadecimal SHA-256 of bytes.
std::string sha256(const void* data, std::size_t size);

/// Read and check an entry's file; the bytes returned are the bytes hashed. Code::changed_file.
Result<std::vector<char>> checked_bytes(const std::filesystem::path& directory, const Entry& entry);

/// Check an entry's file and return its path. Code::changed_file.
Result<std::filesystem::path> checked_path(const std::filesystem::path& directory, const Entry& entry);

}  // namespace tokfilter
