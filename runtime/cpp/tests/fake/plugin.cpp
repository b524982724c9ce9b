// A library that looks like a plugin library to the fake registry.
#include <cstdint>

extern "C" void* getCreators(std::int32_t& count) {
    static void* none[1]{};
    count = 1;
    return none;
}
