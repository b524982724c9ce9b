// The border that no exception crosses.
#pragma once

#include <exception>
#include <new>

#include "text.hpp"
#include "tokfilter/status.hpp"

namespace tokfilter {

/// What `body` returns, or the Status of what it let escape. Up to 15 characters fit into a string without
/// memory.
template <class Body>
auto guarded(Body&& body) noexcept -> decltype(body()) {
    try {
        return body();
    } catch (const std::bad_alloc&) {
        return Status(Code::memory, "no host memory");
    } catch (const std::exception& error) {
        return Status(Code::internal, text("a defect of tokfilter: ", error.what(), ". Please report it."));
    } catch (...) {
        return Status(Code::internal, "not a std error");
    }
}

}  // namespace tokfilter
