// Checks of the creator: its fields, and plugins created from valid, missing, surplus and wrong ones.
#include <string>

#include "plugin_host.h"

namespace host {
namespace {

using nvinfer1::PluginFieldType;

std::string made_as(const Library& library, Fields fields) {
    const PluginPointer plugin = create(library, std::move(fields));
    return plugin == nullptr ? "" : id_of(*plugin);
}

void expect(const Library& library, Logger& logger, Fields fields, const std::string& id) {
    const std::string made = made_as(library, std::move(fields));
    check(made == id, "a plugin " + id + " is made, got \"" + made + "\", logged: " + logger.last());
    check(logger.silent(), "a right plugin logs nothing");
}

void refuse(const Library& library, Logger& logger, Fields fields, const std::vector<std::string>& words) {
    const bool refused = create(library, std::move(fields), "blocks.0") == nullptr;
    std::vector<std::string> all = words;
    all.insert(all.end(), {"tokfilter::TokenSelect \"blocks.0\": ", "expects"});
    if (words[0] == "no attribute is called") {
        all.pop_back();
    }
    const std::string last = logger.last();
    check(refused && logger.has_error(all),
          "wrong fields (" + words[0] + ") are logged errors; logged: " + last);
}

void names_and_defaults(const Library& library) {
    const nvinfer1::PluginFieldCollection& fields = *library.creator().getFieldNames();
    check(fields.nbFields == 3, "the creator has three fields");
    Fields defaults = copy_of(fields);
    const PluginPointer plugin = create(library, std::move(defaults));
    const PluginPointer plain = create(library, Fields());
    check(plugin && plain && id_of(*plugin) == id_of(*plain), "the creator's own fields are its defaults");
}

void right_fields(const Library& library, Logger& logger) {
    expect(library, logger, Fields(), "k=0;prefix_tokens=1;order=position");
    expect(library, logger, std::move(Fields().number("k", 98)), "k=98;prefix_tokens=1;order=position");
    expect(library, logger, std::move(Fields().string("order", "score").number("prefix_tokens", 0)),
           "k=0;prefix_tokens=0;order=score");
    expect(library, logger, std::move(Fields().string("order", std::string("score\0", 6))),
           "k=0;prefix_tokens=1;order=score");
    const std::int64_t wide = 2147483647;
    expect(library, logger, std::move(Fields().add("k", tokfilter::kFieldInt64, &wide, sizeof(wide), 1)),
           "k=2147483647;prefix_tokens=1;order=position");
    const PluginPointer plugin = create(library.creator(), nullptr, nullptr);
    check(plugin != nullptr && logger.silent(), "no name and no fields give the defaults");
}

void wrong_fields(const Library& library, Logger& logger) {
    const float real = 98.0F;
    const std::int32_t pair[] = {98, 99};
    const std::int64_t huge = std::int64_t{1} << 40;
    const std::int32_t one = 1;
    refuse(library, logger, std::move(Fields().number("prefix", 1)),
           {"no attribute is called", "\"prefix\""});
    refuse(library, logger, std::move(Fields().add(nullptr, PluginFieldType::kINT32, &one, sizeof(one), 1)),
           {"no attribute is called", "\"\""});
    refuse(library, logger, std::move(Fields().number("k", -98)), {"attribute k", "got -98"});
    refuse(library, logger, std::move(Fields().number("prefix_tokens", -1)),
           {"attribute prefix_tokens", "got -1"});
    refuse(library, logger, std::move(Fields().add("k", PluginFieldType::kFLOAT32, &real, sizeof(real), 1)),
           {"attribute k", "kFLOAT32"});
    refuse(library, logger, std::move(Fields().add("k", static_cast<PluginFieldType>(13), &real, 1, 1)),
           {"attribute k", "kFP4"});
    refuse(library, logger, std::move(Fields().add("k", PluginFieldType::kINT32, pair, sizeof(pair), 2)),
           {"attribute k", "one integer, got 2"});
    refuse(library, logger, std::move(Fields().add("k", PluginFieldType::kINT32, nullptr, 0, 1)),
           {"attribute k", "one integer, got 0"});
    refuse(library, logger, std::move(Fields().add("k", tokfilter::kFieldInt64, &huge, sizeof(huge), 1)),
           {"attribute k", "1099511627776"});
    refuse(library, logger, std::move(Fields().number("order", 1)), {"attribute order", "kINT32"});
    refuse(library, logger, std::move(Fields().string("order", "random")),
           {"\"position\" or \"score\"", "\"random\""});
    refuse(library, logger, std::move(Fields().string("order", "")), {"\"position\" or \"score\"", "\"\""});
    refuse(library, logger, std::move(Fields().add("order", PluginFieldType::kCHAR, nullptr, 0, 5)),
           {"attribute order", "without data"});
}

void wrong_lists(const Library& library, Logger& logger) {
    const nvinfer1::PluginFieldCollection no_data{2, nullptr};
    const nvinfer1::PluginFieldCollection negative{-1, nullptr};
    for (const auto* list : {&no_data, &negative}) {
        check(create(library.creator(), list, "list") == nullptr &&
                  logger.has_error({"\"list\"", "expects a list of fields", std::to_string(list->nbFields)}),
              "a list of fields without data is a logged error");
    }
}

}  // namespace

void check_creator(const Library& library, Logger& logger) {
    names_and_defaults(library);
    right_fields(library, logger);
    wrong_fields(library, logger);
    wrong_lists(library, logger);
}

}  // namespace host
