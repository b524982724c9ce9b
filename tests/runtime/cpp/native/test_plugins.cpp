// Plugin libraries: loaded, missing, changed, of the wrong kind. In TensorRT 8.5 libraries stay in the
// process's registry, so each test starts by emptying that of the fake.
#include "fake_model.hpp"
#include "plugins.hpp"

using fake::forget_plugins;
using testing::Directory;
using testing::images;
using testing::is_right;
using tokfilter::Code;

namespace {

// A directory whose plan needs a plugin library.
struct NeedsPlugin : Directory {
    explicit NeedsPlugin(const char* library) {
        forget_plugins();
        set_plan("/plugin", "true");
        if (library != nullptr) add_plugin(library);
    }
};

}  // namespace

TEST_CASE("a plugin library is loaded where the manifest lists one") {
    NeedsPlugin directory(FAKE_PLUGIN);
    auto engine = directory.open();
    REQUIRE_MESSAGE(engine.ok(), engine.status().message());
    auto second = directory.open();
    REQUIRE(second.ok());
    CHECK(is_right(*engine->classify(images(1), 1)));
    CHECK(engine->close().ok());
    CHECK(is_right(*second->classify(images(1), 1)));
    NeedsPlugin copy(FAKE_PLUGIN);
    CHECK_MESSAGE(copy.open().ok(), "another copy of the library, while the first one is in use");
}

TEST_CASE("a self-registering library serves TensorRT 8.5; later registries refuse it") {
    NeedsPlugin directory(FAKE_PLUGIN_STATIC);
    const auto engine = directory.open();
    if (fake::registry_loads_libraries()) {
        CHECK_STATUS(engine.status(), Code::plugin, "cannot load the plugin library", "could not be loaded",
                     "tokfilter plugin build");
        return;
    }
    CHECK_MESSAGE(engine.ok(), engine.status().message());
    NeedsPlugin copy(FAKE_PLUGIN_STATIC);
    CHECK(copy.open().ok());
}

TEST_CASE("a plan without plugin, or with the plugin serialised inside, opens without the plugin library") {
    for (const char* plugin : {"null", R"("serialized")"}) {
        Directory directory;
        directory.add_plugin(FAKE_PLUGIN);
        directory.set("/files/0/target",
                      std::string(R"({"version_compatible": true, "plugin": )") + plugin + "}");
        directory.write();
        std::filesystem::remove(directory.file("libplugin.so"));
        CHECK(tokfilter::Engine::open(directory.path()).ok());
    }
}

TEST_CASE("a plan that needs a plugin library which the manifest does not list") {
    Directory directory;
    directory.set("/files/0/target", R"({"plugin": "libtokfilter_plugin.so"})");
    CHECK_STATUS(directory.open().status(), Code::plugin, "needs the plugin library libtokfilter_plugin.so",
                 "manifest.json does not list", "Export again");
}

TEST_CASE("plugin libraries that are missing, changed, invalid, or not listed") {
    CHECK_STATUS(NeedsPlugin(nullptr).open().status(), Code::version, "Cannot find plugin: TokenSelect",
                 "needs tokfilter's plugin");
    NeedsPlugin directory(NO_PLUGIN);
    CHECK_STATUS(directory.open().status(), Code::plugin, "cannot load the plugin library",
                 fake::registry_loads_libraries() ? "libplugin.so: IPluginRegistry::loadLibrary"
                                                  : "registers no plugin TokenSelect, version 1",
                 "tokfilter plugin build");
    NeedsPlugin damaged(NO_PLUGIN);
    damaged.write();
    damaged.put("libplugin.so", "x", true);
    damaged.put("manifest.json", damaged.manifest(), false);
    CHECK_STATUS(tokfilter::Engine::open(damaged.path()).status(), Code::plugin, "libplugin.so",
                 "file too short");
    damaged.put("libplugin.so", "y", false);
    CHECK_STATUS(tokfilter::Engine::open(damaged.path()).status(), Code::changed_file,
                 "libplugin.so is not the file");
    std::filesystem::remove(damaged.file("libplugin.so"));
    CHECK_STATUS(tokfilter::Engine::open(damaged.path()).status(), Code::changed_file,
                 "libplugin.so is missing");
}
