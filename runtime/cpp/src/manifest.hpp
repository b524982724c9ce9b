// manifest.json of an export directory, as written by artifacts/manifest.py.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tokfilter/engine.hpp"

namespace tokfilter {

/// One file of the directory; the fields are manifest.py's Entry.
struct Entry {
    std::string path;
    std::string role;
    std::string sha256;
    std::uintmax_t bytes = 0;
    std::string runtime;                 ///< empty for files other than models
    std::string precision;               ///< likewise
    std::optional<std::int64_t> budget;  ///< none when the budget is an input, the length of `slots`
    std::optional<Range> batch_range;
    std::optional<Range> budget_range;
    std::map<std::string, std::string> target;  ///< versions and GPU of the build, values as text
};

/// Metadata of the model; the fields are manifest.py's ModelCard.
struct Card {
    std::int64_t num_patches = 0;
    std::int64_t classes = 0;  ///< or numbers of the embedding
    bool embeds = false;       ///< whether the output is `embedding` in place of `logits`
    std::int64_t keep = 0;     ///< default budget in tokens
    std::vector<std::string> class_names;
    Preprocess preprocess;
};

struct Manifest {
    Card model;
    std::vector<Entry> files;
    std::optional<std::int64_t> chosen_tokens;  ///< the budget that `tokfilter tune` chose
};

/// Read directory/manifest.json. Code::manifest if it is missing, damaged or of another version.
Result<Manifest> load_manifest(const std::filesystem::path& directory);

/// Parse a manifest from text; `name` is used in messages.
Result<Manifest> manifest_from_text(const std::string& content, const std::string& name);

}  // namespace tokfilter
