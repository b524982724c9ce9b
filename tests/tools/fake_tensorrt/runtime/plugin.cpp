// A library that the fake registry accepts as a plugin library: it exports getCreators.
#include <cstdint>

extern "C" void* getCreators(std::int32_t& count) {
    static void* none[1]{};
    count = 1;
    return none;
}
