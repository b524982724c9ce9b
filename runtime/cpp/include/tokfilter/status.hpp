// Result of a call: a value, or a code with a message.
#pragma once

#include <string>
#include <utility>
#include <variant>

#include "tokfilter/tokfilter.h"

namespace tokfilter {

/// The codes of tokfilter.h as a C++ enum.
enum class Code : int {
    ok = TOKFILTER_OK,
    argument = TOKFILTER_ARGUMENT,
    manifest = TOKFILTER_MANIFEST,
    changed_file = TOKFILTER_CHANGED_FILE,
    version = TOKFILTER_VERSION,
    plugin = TOKFILTER_PLUGIN,
    no_gpu = TOKFILTER_NO_GPU,
    range = TOKFILTER_RANGE,
    closed = TOKFILTER_CLOSED,
    busy = TOKFILTER_BUSY,
    engine = TOKFILTER_ENGINE,
    memory = TOKFILTER_MEMORY,
    internal = TOKFILTER_INTERNAL,
};

/// Success, or a code with a message: expected value, actual value, remedy.
class [[nodiscard]] Status {
  public:
    Status() = default;
    Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

    bool ok() const noexcept { return code_ == Code::ok; }
    Code code() const noexcept { return code_; }
    const std::string& message() const noexcept { return message_; }

  private:
    Code code_ = Code::ok;
    std::string message_;
};

/// A value, or the Status of the error.
template <class T>
class [[nodiscard]] Result {
  public:
    Result(T value) : content_(std::in_place_index<1>, std::move(value)) {}
    Result(Status status) : content_(std::in_place_index<0>, std::move(status)) {}

    bool ok() const noexcept { return content_.index() == 1; }
    Status status() const { return ok() ? Status() : *std::get_if<0>(&content_); }

    /// The value. Only where ok().
    T& operator*() & noexcept { return *std::get_if<1>(&content_); }
    const T& operator*() const& noexcept { return *std::get_if<1>(&content_); }
    T&& operator*() && noexcept { return std::move(*std::get_if<1>(&content_)); }
    T* operator->() noexcept { return std::get_if<1>(&content_); }
    const T* operator->() const noexcept { return std::get_if<1>(&content_); }

  private:
    std::variant<Status, T> content_;
};

}  // namespace tokfilter
