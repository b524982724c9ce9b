#include "manifest.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <vector>

#include "preprocess.hpp"
#include "text.hpp"

namespace tokfilter {
namespace {

using Json = nlohmann::json;

constexpr auto kFormat = "tokfilter-export";
constexpr std::int64_t kVersion = 1;
constexpr std::uintmax_t kLargest = 64u << 20;  // ImageNet-21k's class names take 1 MB
constexpr std::int64_t kLargestSize = 1 << 20;  // keeps products of sizes far from overflow
constexpr std::size_t kMostFiles = 10'000;      // the limits are those of artifacts/manifest_checks.py
constexpr std::size_t kLongestName = 255, kLongestWord = 64, kLongestText = 16'000;
constexpr int kDeepest = 64;                       // nlohmann's dump is recursive
constexpr std::ptrdiff_t kMostValues = 4'000'000;  // 64 MiB of empty lists would take 1.4 GB

[[noreturn]] void refuse(const std::string& why) { throw std::invalid_argument(why); }

std::int64_t integer(const Json& value, const char* name, std::int64_t low, std::int64_t high) {
    if (!value.is_number_integer())
        refuse(text(name, " expects a whole number, got ", printable(value.dump(), 80)));
    if (value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(INT64_MAX))
        refuse(text(name, " is too large"));
    const auto number = value.get<std::int64_t>();
    if (number < low || number > high) refuse(text(name, " expects ", low, " to ", high, ", got ", number));
    return number;
}

bool present(const Json& object, const char* name) {
    return object.contains(name) && !object[name].is_null();
}

std::optional<Range> range(const Json& entry, const char* name) {
    if (!present(entry, name)) return std::nullopt;
    const Json& value = entry[name];
    if (!value.is_array() || value.size() != 3) refuse(text(name, " expects [low, best, high]"));
    const auto at = [&](std::size_t i) { return integer(value[i], name, 1, kLargestSize); };
    const Range result{at(0), at(1), at(2)};
    if (!(result.low <= result.best && result.best <= result.high)) refuse(text(name, " is not ascending"));
    return result;
}

// The name of a file inside any folder: no path, no control characters.
bool is_file_name(const std::string& name) {
    return !name.empty() && name.size() <= kLongestName && name != "." && name != ".." &&
           name.find_first_of("/\\") == std::string::npos && printable(name, kLongestName) == name;
}

std::string file_name(const Json& value, const char* what) {
    auto name = value.get<std::string>();
    if (!is_file_name(name))
        refuse(text(what, " '", printable(name), "' must be the name of a file inside the directory"));
    return name;
}

// A role, runtime or precision. A newer tokfilter may know others, so the set is not closed here.
std::string word(const Json& value, const char* what) {
    auto name = value.get<std::string>();
    if (name.empty() || name.size() > kLongestWord ||
        name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") != std::string::npos)
        refuse(text(what, " '", printable(name), "' must be a word of lower-case letters, digits and -"));
    return name;
}

bool is_digest(const std::string& digest) {
    return digest.size() == 64 && digest.find_first_not_of("0123456789abcdef") == std::string::npos;
}

Entry entry_from_json(const Json& item) {
    Entry entry;
    entry.path = file_name(item.at("path"), "file");
    entry.role = word(item.at("role"), "role");
    entry.sha256 = item.at("sha256").get<std::string>();
    if (!is_digest(entry.sha256))
        refuse(text("the SHA-256 of ", entry.path, " must be 64 hexadecimal digits"));
    entry.bytes = static_cast<std::uintmax_t>(integer(item.at("bytes"), "bytes", 0, INT64_MAX));
    if (present(item, "runtime")) entry.runtime = word(item["runtime"], "runtime");
    if (present(item, "precision")) entry.precision = word(item["precision"], "precision");
    if (present(item, "budget")) entry.budget = integer(item["budget"], "budget", 1, kLargestSize);
    entry.batch_range = range(item, "batch_range");
    entry.budget_range = range(item, "budget_range");
    if (present(item, "target")) {
        if (!item["target"].is_object()) refuse("target expects an object");
        for (const auto& [key, value] : item["target"].items())
            entry.target[key] = value.is_string() ? value.get<std::string>() : value.dump();
        if (present(item["target"], "plugin")) file_name(item["target"]["plugin"], "target.plugin");
    }
    return entry;
}

Preprocess preprocess_from_json(const Json& fields) {
    Preprocess result;
    const Json& size = fields.at("input_size");
    if (!size.is_array() || size.size() != 3 || size[0] != 3) refuse("input_size expects [3, height, width]");
    result.height = integer(size[1], "height", 1, kLargestSize);
    result.width = integer(size[2], "width", 1, kLargestSize);
    result.mean = fields.at("mean").get<std::array<double, 3>>();
    result.std = fields.at("std").get<std::array<double, 3>>();
    if (present(fields, "interpolation")) result.interpolation = fields["interpolation"].get<std::string>();
    if (present(fields, "crop_pct")) result.crop_pct = fields["crop_pct"].get<double>();
    if (present(fields, "crop_mode")) result.crop_mode = fields["crop_mode"].get<std::string>();
    if (const Status status = check_preprocess(result); !status.ok()) refuse(status.message());
    return result;
}

InputForm form_from_json(const Json& model) {
    if (!present(model, "input")) return InputForm::floats;
    const auto name = model["input"].get<std::string>();
    if (name == "uint8") return InputForm::uint8;
    if (name == "uint8-nhwc") return InputForm::uint8_nhwc;
    if (name != "float")
        refuse(text("input must be float, uint8 or uint8-nhwc, got '", printable(name), "'"));
    return InputForm::floats;
}

// Whether the model gives an embedding [B, classes] in place of logits.
bool embeds_from_json(const Json& model, const Card& card) {
    if (!present(model, "output")) return false;
    const Json& shape = model["output"].at("shape");
    if (shape != Json::array({card.classes}) || !card.class_names.empty())
        refuse(text("the output embedding expects the shape [", card.classes, "] and no class names, got ",
                    printable(shape.dump(), 80), " and ", card.class_names.size(), " names"));
    return true;
}

Card card_from_json(const Json& model) {
    Card card;
    card.num_patches = integer(model.at("patches"), "patches", 1, kLargestSize);
    card.classes = integer(model.at("classes"), "classes", 1, kLargestSize);
    card.keep = integer(model.at("keep"), "keep", 1, card.num_patches);
    card.class_names = model.at("class_names").get<std::vector<std::string>>();
    if (!card.class_names.empty() && card.class_names.size() != static_cast<std::size_t>(card.classes))
        refuse(text("class_names expects ", card.classes, " names or none, got ", card.class_names.size()));
    for (const auto& name : card.class_names)
        if (name.size() > kLongestText) refuse("a class name is longer than 16,000 bytes");
    card.embeds = embeds_from_json(model, card);
    card.preprocess = preprocess_from_json(model.at("preprocessing"));
    card.preprocess.form = form_from_json(model);
    const Json& size = model.at("input_size");
    if (size != Json{3, card.preprocess.height, card.preprocess.width})
        refuse("input_size and the preprocessing's input_size differ");
    return card;
}

Manifest manifest_from_json(const Json& content) {
    Manifest manifest{card_from_json(content.at("model")), {}, std::nullopt};
    const Json& files = content.at("files");
    if (!files.is_array() || files.size() > kMostFiles) refuse("files expects a list of at most 10,000");
    std::set<std::string> seen{"manifest.json"};
    for (const Json& item : files) {
        manifest.files.push_back(entry_from_json(item));
        if (!seen.insert(manifest.files.back().path).second)
            refuse(text("file '", manifest.files.back().path, "' is the manifest or is listed twice"));
    }
    if (present(content, "choice") && present(content["choice"], "tokens"))
        manifest.chosen_tokens =
            integer(content["choice"]["tokens"], "choice.tokens", 1, manifest.model.num_patches);
    return manifest;
}

// Other readers of JSON take the first or the last of a key that stands twice, so it is refused.
Json parsed(const std::string& content) {
    const auto values = std::count_if(content.begin(), content.end(),
                                      [](char one) { return one == ',' || one == '[' || one == '{'; });
    if (values > kMostValues) refuse("it has more than 4,000,000 values");
    std::vector<std::set<std::string>> keys;
    const auto check = [&keys](int depth, Json::parse_event_t event, Json& value) {
        if (depth > kDeepest) refuse("its values are nested too deep");
        if (event == Json::parse_event_t::object_start) keys.emplace_back();
        if (event == Json::parse_event_t::object_end) keys.pop_back();
        if (event != Json::parse_event_t::key) return true;
        const auto& key = value.get_ref<const std::string&>();
        if (!keys.back().insert(key).second)
            refuse(text("it has the key '", printable(key, 80), "' more than once"));
        return true;
    };
    return Json::parse(content, check);
}

}  // namespace

Result<Manifest> manifest_from_text(const std::string& content, const std::string& name) {
    try {
        const Json json = parsed(content);
        if (!json.is_object() || json.at("format") != kFormat)
            return Status(Code::manifest, text(name, " is not a manifest of tokfilter."));
        if (const Json& version = json.at("version"); version != kVersion)
            return Status(Code::manifest, text(name, " has manifest version ", printable(version.dump(), 80),
                                               "; this tokfilter reads ", kVersion, ". Export again."));
        if (const Json& model = json.at("model"); model.is_object() && present(model, "output")) {
            const auto output = model["output"].value("name", "");
            if (output != "embedding")
                return Status(
                    Code::manifest,
                    text(
                        name, " is of a model that gives ", printable(output),
                        ", and this library takes models that give logits or an embedding. Run it in Python: "
                        "tokfilter.open_session."));
        }
        if (const Json& model = json.at("model"); model.is_object() && present(model, "reducer")) {
            const auto reducer = model["reducer"].value("name", "");
            if (reducer != "filter")
                return Status(
                    Code::manifest,
                    text(name, " is of a model that reduces tokens inside its blocks (", printable(reducer),
                         "), and this library takes those of the token "
                         "filter. Run it in Python: tokfilter.open_session."));
        }
        return manifest_from_json(json);
    } catch (const Json::exception& error) {
        return Status(Code::manifest,
                      text(name, " is damaged (", printable(error.what()), "). Export again."));
    } catch (const std::invalid_argument& error) {
        return Status(Code::manifest, text(name, " is damaged (", error.what(), "). Export again."));
    }
}

Result<Manifest> load_manifest(const std::filesystem::path& directory) {
    const auto path = directory / "manifest.json";
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error))
        return Status(Code::manifest,
                      text("an export directory needs a manifest (written by `tokfilter export`), but "
                           "there is none at ",
                           path.string(), "."));
    if (std::filesystem::file_size(path, error) > kLargest || error)
        return Status(Code::manifest, text(path.string(), " is larger than any manifest. Export again."));
    std::ifstream file(path, std::ios::binary);
    const std::string content{std::istreambuf_iterator<char>(file), {}};
    if (!file) return Status(Code::manifest, text(path.string(), " cannot be read: check its permissions."));
    return manifest_from_text(content, path.string());
}

}  // namespace tokfilter
