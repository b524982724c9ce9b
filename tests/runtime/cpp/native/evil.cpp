// A foreign library in the place of a plugin: code that runs when it is loaded.
#include <stdlib.h>

namespace {

__attribute__((constructor)) void run() { setenv("TOKFILTER_EVIL", "1", 1); }

}  // namespace
