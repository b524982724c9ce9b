// Files that are used only when their bytes are the ones that the manifest names.
#pragma once

#include <cstddef>
#include <filesystem>
#include <vector>

#include "manifest.hpp"

namespace tokfilter {

/// Hexadecimal SHA-256 of bytes.
std::string sha256(const void* data, std::size_t size);

/// The content of an entry's file, checked: what is returned is what was hashed. Code::changed_file.
Result<std::vector<char>> checked_bytes(const std::filesystem::path& directory, const Entry& entry);

/// The path of an entry whose file was checked. Code::changed_file.
Result<std::filesystem::path> checked_path(const std::filesystem::path& directory, const Entry& entry);

}  // namespace tokfilter
