// plugin_host LIBRARY walk | cases FILE | launch-error
//
// Plays TensorRT for the plugin library: loads it, walks the life of its plugins, and checks every answer.
// Status 0 means that every check held. Built with the sanitizers, so a leak, a double free or undefined
// behaviour fails the run too.
#include "plugin_host.h"

#include <cstdio>
#include <exception>
#include <string>

namespace {

int run(const std::string& act, const char* library_path, const char* argument) {
    host::Logger logger;
    host::LoggerFinder finder(logger);
    const host::Library library(library_path, finder);
    if (act == "walk") {
        host::walk_creator(library, logger);
        host::walk_build(library, logger);
        host::walk_refusals(library, logger, finder);
    } else if (act == "cases" && argument != nullptr) {
        host::walk_pointers(library, logger);
        std::printf("%lld calls\n", static_cast<long long>(host::run_cases(library, logger, argument)));
    } else if (act == "launch-error") {
        host::walk_launch_error(library, logger);
    } else {
        std::fprintf(stderr, "wants LIBRARY walk | cases FILE | launch-error, got %s\n", act.c_str());
        return 2;
    }
    std::printf("%d checks, %d failures\n", host::checks(), host::failures());
    return host::failures() == 0 ? 0 : 1;
}

}  // namespace

int main(int count, char** arguments) {
    try {
        return run(count > 2 ? arguments[2] : "", arguments[1], count > 3 ? arguments[3] : nullptr);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "FAILED: %s\n", error.what());
        return 1;
    }
}
