#include "serial.h"

#include <array>
#include <cstdint>
#include <cstring>

#include "text.h"

namespace tokfilter {
namespace {

constexpr std::int32_t kFormat = 1;
using Words = std::array<std::int32_t, 4>;
static_assert(sizeof(Words) == kSerialBytes);

}  // namespace

void write_config(const Config& config, void* buffer) noexcept {
    const Words words{kFormat, config.k, config.prefix_tokens, static_cast<std::int32_t>(config.order)};
    std::memcpy(buffer, words.data(), kSerialBytes);
}

std::string read_serial(const void* data, std::size_t bytes, Config& config) {
    if (data == nullptr || bytes != kSerialBytes) {
        return text("expects ", kSerialBytes, " bytes in the engine, got ", data == nullptr ? 0 : bytes,
                    ". The engine is damaged or of another version of tokfilter: build it again.");
    }
    Words words;  // copied: the data need not be aligned
    std::memcpy(words.data(), data, kSerialBytes);
    const auto [format, k, prefix_tokens, order] = words;
    if (format != kFormat) {
        return text("expects data of format ", kFormat, " in the engine, got ", format,
                    ". The engine is damaged or of another version of tokfilter: build it again.");
    }
    if (k < 0 || prefix_tokens < 0 || order < 0 || order >= static_cast<std::int32_t>(kOrderNames.size())) {
        return text("expects k >= 0, prefix_tokens >= 0 and order 0 or 1 in the engine, got ", k, ", ",
                    prefix_tokens, " and ", order, ". The engine is damaged: build it again.");
    }
    config = Config{k, prefix_tokens, static_cast<Order>(order)};
    return {};
}

}  // namespace tokfilter
