// consumer DIRECTORY: opens an export directory with the installed package; prints versions and the error.
#include <cstdio>
#include <tokfilter/engine.hpp>

int main(int count, char** values) {
    const tokfilter::Versions found = tokfilter::versions();
    std::printf("tokfilter %s, %s, headers %s, library %s\nmisfit: %s\n", found.tokfilter.c_str(),
                found.runtime.c_str(), found.headers.c_str(), found.library.c_str(), found.misfit.c_str());
    auto engine = tokfilter::Engine::open(count > 1 ? values[1] : ".");
    std::printf("open: %d %s\n", static_cast<int>(engine.status().code()), engine.status().message().c_str());
    return engine.ok() ? 0 : 1;
}
