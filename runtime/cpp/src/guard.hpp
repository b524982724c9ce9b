// Converts exceptions to a Status.
#pragma once

#include <exception>
#include <new>

#include "text.hpp"
#include "tokfilter/status.hpp"

namespace tokfilter {

/// Return the result of `body`, or the Status for its exception. Messages of up to 15 characters need no
/// allocation.
template <class Body>
auto guarded(Body&& body) noexcept -> decltype(body()) {
    try {
        return body();
    } catch (const std::bad_alloc&) {
        return Status(Code::memory, "no host memory");
    } catch (const std::exception& error) {
        return Status(Code::internal, text("a bug in tokfilter: ", error.what(), ". Please report it."));
    } catch (...) {
        return Status(Code::internal, "not a std error");
    }
}

}  // namespace tokfilter
