// Reading files once, with a check of size and SHA-256 against the manifest: what was hashed is what is used.
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

/// A path to the bytes of a shared library, which were checked and which nobody can change: a sealed memfd,
/// else a copy in a private folder. It stays valid until the process ends. Code::changed_file, Code::plugin.
Result<std::filesystem::path> checked_library(const std::filesystem::path& directory, const Entry& entry);

}  // namespace tokfilter
