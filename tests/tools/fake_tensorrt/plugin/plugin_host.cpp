// plugin_host LIBRARY checks | cases FILE | launch-error | other-finder LIBRARY
//
// Fake TensorRT that loads the plugin library and checks every function of its plugins.
// Status 0: every check passed. Built with the sanitizers, so a leak, a double free or undefined
// behaviour fails the run too.
#include "plugin_host.h"

#include <cstdio>
#include <exception>
#include <string>

namespace {

int run(const std::string& command, const char* library_path, const char* argument) {
    host::Logger logger;
    host::LoggerFinder finder(logger);
    if (command == "other-finder" && argument != nullptr) {
        host::check_other_finder(library_path, argument, logger, finder);
        return host::report();
    }
    const host::Library library(library_path, finder);
    if (command == "checks") {
        host::check_creator(library, logger);
        host::check_build(library, logger);
        host::check_errors(library, logger, finder);
    } else if (command == "cases" && argument != nullptr) {
        host::check_pointers(library, logger);
        std::printf("%lld calls\n", static_cast<long long>(host::run_cases(library, logger, argument)));
    } else if (command == "launch-error") {
        host::check_launch_error(library, logger);
    } else {
        std::fprintf(stderr,
                     "expected LIBRARY checks | cases FILE | launch-error | other-finder LIBRARY, got %s\n",
                     command.c_str());
        return 2;
    }
    return host::report();
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
