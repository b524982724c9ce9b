// Command lines of the examples: positional arguments, and options with a value.
#pragma once

#include <charconv>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace example {

/// Positional arguments and `--name value` pairs. `error` is the message for an invalid line, else empty.
struct Arguments {
    std::vector<std::string> words;
    std::map<std::string, std::string> options;
    std::string error;

    /// known: names of options without the dashes. expected: number of positional arguments.
    Arguments(int count, char** values, const std::vector<std::string>& known, std::size_t expected) {
        for (int i = 1; i < count; ++i) {
            const std::string value = values[i];
            if (value.rfind("--", 0) != 0) {
                words.push_back(value);
                continue;
            }
            bool taken = false;
            for (const std::string& name : known) taken = taken || value == "--" + name;
            if (!taken || i + 1 == count) {
                error = taken ? value + " expects a value." : "there is no option " + value + ".";
                return;
            }
            options[value.substr(2)] = values[++i];
        }
        if (words.size() != expected)
            error =
                std::to_string(expected) + " argument(s) expected, got " + std::to_string(words.size()) + ".";
    }

    std::string text(const std::string& name, const std::string& otherwise) const {
        const auto found = options.find(name);
        return found == options.end() ? otherwise : found->second;
    }

    /// One of the allowed words; sets `error` otherwise.
    std::string choice(const std::string& name, const std::vector<std::string>& allowed) {
        const std::string value = text(name, allowed.front());
        std::string all;
        for (const std::string& one : allowed) {
            if (value == one) return value;
            all += (all.empty() ? "" : ", ") + one;
        }
        error = "--" + name + " expects one of " + all + ", got " + value + ".";
        return allowed.front();
    }

    /// A whole number in low..high; sets `error` otherwise.
    std::int64_t number(const std::string& name, std::int64_t otherwise, std::int64_t low,
                        std::int64_t high) {
        const auto found = options.find(name);
        if (found == options.end()) return otherwise;
        const std::string& value = found->second;
        std::int64_t result = 0;
        const auto [end, problem] = std::from_chars(value.data(), value.data() + value.size(), result);
        if (problem != std::errc() || end != value.data() + value.size() || result < low || result > high)
            error = "--" + name + " expects a number from " + std::to_string(low) + " to " +
                    std::to_string(high) + ", got " + value + ".";
        return result;
    }
};

}  // namespace example
