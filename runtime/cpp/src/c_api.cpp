#include <algorithm>
#include <string>
#include <type_traits>

#include "guard.hpp"
#include "tokfilter/engine.hpp"
#include "tokfilter/tokfilter.h"

struct tokfilter_engine {
    tokfilter::Engine engine;
    tokfilter::Info info;  // tokfilter_engine_class_name returns pointers into it
};

namespace {

using tokfilter::Code;
using tokfilter::Status;

thread_local std::string last_error;

tokfilter_code code_of(const Status& status) noexcept {
    if (!status.ok()) {
        try {
            last_error = status.message();
        } catch (...) {
            last_error.clear();
        }
    }
    return static_cast<tokfilter_code>(status.code());
}

// Detects a caller compiled with another tokfilter.h, whose struct may be shorter.
template <class Struct>
Status same_size(const Struct* value, const char* name) {
    if (value == nullptr) return {Code::argument, tokfilter::text("a ", name, " is required, got NULL.")};
    if (value->struct_size == sizeof(Struct)) return {};
    return {Code::argument,
            tokfilter::text(name, ".struct_size expects ", sizeof(Struct), ", got ", value->struct_size,
                            ": set it, and compile with the tokfilter.h of this library.")};
}

Status no_engine() { return {Code::closed, "there is no engine: it was closed, or never opened."}; }

tokfilter::Call call_of(const tokfilter_call& from) {
    tokfilter::Call call;
    call.images = from.images;
    call.pixels = from.pixels;
    std::copy(std::begin(from.shape), std::end(from.shape), call.shape.begin());
    call.tokens = from.tokens;
    call.logits = from.logits;
    call.logits_room = from.logits_room;
    call.indices = from.indices;
    call.indices_room = from.indices_room;
    call.stream = static_cast<tokfilter::Stream>(from.stream);
    return call;
}

Status options_of(const tokfilter_options* from, tokfilter::Options& options) {
    if (from == nullptr) return {};
    if (Status status = same_size(from, "tokfilter_options"); !status.ok()) return status;
    options.role = from->full != 0 ? tokfilter::Role::full : tokfilter::Role::filtered;
    if (from->precision != nullptr) options.precision = from->precision;
    options.tokens = from->tokens;
    options.device = from->device;
    return {};
}

Status open(const char* directory, const tokfilter_options* options, tokfilter_engine** engine) {
    if (engine == nullptr || directory == nullptr)
        return {Code::argument,
                "tokfilter_engine_open expects a directory and a pointer for the engine, got NULL."};
    tokfilter::Options parsed;
    if (Status status = options_of(options, parsed); !status.ok()) return status;
    auto opened = tokfilter::Engine::open(directory, parsed);
    if (!opened.ok()) return opened.status();
    auto info = opened->info();
    if (!info.ok()) return info.status();
    *engine = new tokfilter_engine{*std::move(opened), *std::move(info)};
    return {};
}

Status describe(const tokfilter_engine* engine, tokfilter_info* info) {
    if (engine == nullptr) return no_engine();
    if (Status status = same_size(info, "tokfilter_info"); !status.ok()) return status;
    const auto& from = engine->info;
    *info = {sizeof(tokfilter_info),
             from.height,
             from.width,
             from.classes,
             from.patches,
             from.batch.low,
             from.batch.high,
             from.budget.low,
             from.budget.best,
             from.budget.high,
             from.has_indices,
             static_cast<tokfilter_input>(from.preprocess.form),
             from.embeds};
    return {};
}

template <class Value>
Status copied(const tokfilter::Result<std::vector<Value>>& values, Value* input, std::size_t room) {
    if (!values.ok()) return values.status();
    if (input == nullptr || room < values->size())
        return {Code::argument,
                tokfilter::text("input expects room for ", values->size(),
                                std::is_same_v<Value, float> ? " floats, got " : " bytes, got ",
                                input == nullptr ? 0 : room)};
    std::copy(values->begin(), values->end(), input);
    return {};
}

static_assert(static_cast<int>(tokfilter::InputForm::floats) == TOKFILTER_INPUT_FLOAT);
static_assert(static_cast<int>(tokfilter::InputForm::uint8) == TOKFILTER_INPUT_UINT8);
static_assert(static_cast<int>(tokfilter::InputForm::uint8_nhwc) == TOKFILTER_INPUT_UINT8_NHWC);

}  // namespace

extern "C" {

const char* tokfilter_version(void) { return TOKFILTER_VERSION_TEXT; }

const char* tokfilter_last_error(void) { return last_error.c_str(); }

tokfilter_code tokfilter_engine_open(const char* directory, const tokfilter_options* options,
                                     tokfilter_engine** engine) {
    if (engine != nullptr) *engine = nullptr;
    return code_of(tokfilter::guarded([&]() -> Status { return open(directory, options, engine); }));
}

tokfilter_code tokfilter_engine_info(const tokfilter_engine* engine, tokfilter_info* info) {
    return code_of(tokfilter::guarded([&]() -> Status { return describe(engine, info); }));
}

const char* tokfilter_engine_class_name(const tokfilter_engine* engine, int64_t number) {
    if (engine == nullptr || number < 0) return nullptr;
    const auto& names = engine->info.class_names;
    return static_cast<std::size_t>(number) < names.size() ? names[static_cast<std::size_t>(number)].c_str()
                                                           : nullptr;
}

tokfilter_code tokfilter_engine_preprocess(const tokfilter_engine* engine, const uint8_t* pixels,
                                           int64_t height, int64_t width, float* input, size_t room) {
    return code_of(tokfilter::guarded([&]() -> Status {
        if (engine == nullptr) return no_engine();
        return copied(engine->info.preprocess.input({pixels, height, width}), input, room);
    }));
}

tokfilter_code tokfilter_engine_pixels(const tokfilter_engine* engine, const uint8_t* pixels, int64_t height,
                                       int64_t width, uint8_t* input, size_t room) {
    return code_of(tokfilter::guarded([&]() -> Status {
        if (engine == nullptr) return no_engine();
        return copied(engine->info.preprocess.pixels({pixels, height, width}), input, room);
    }));
}

tokfilter_code tokfilter_engine_run(tokfilter_engine* engine, const tokfilter_call* call,
                                    tokfilter_timing* timing) {
    return code_of(tokfilter::guarded([&]() -> Status {
        if (engine == nullptr) return no_engine();
        if (Status status = same_size(call, "tokfilter_call"); !status.ok()) return status;
        tokfilter::Timing spent;
        Status status = engine->engine.run(call_of(*call), timing != nullptr ? &spent : nullptr);
        if (status.ok() && timing != nullptr) *timing = {spent.h2d_ms, spent.compute_ms, spent.d2h_ms};
        return status;
    }));
}

tokfilter_code tokfilter_engine_enqueue(tokfilter_engine* engine, const tokfilter_call* call) {
    return code_of(tokfilter::guarded([&]() -> Status {
        if (engine == nullptr) return no_engine();
        if (Status status = same_size(call, "tokfilter_call"); !status.ok()) return status;
        return engine->engine.enqueue(call_of(*call));
    }));
}

tokfilter_code tokfilter_engine_close(tokfilter_engine** engine) {
    return code_of(tokfilter::guarded([&]() -> Status {
        if (engine == nullptr || *engine == nullptr) return {};
        Status status = (*engine)->engine.close();
        if (status.code() == Code::busy) return status;
        delete *engine;
        *engine = nullptr;
        return status;
    }));
}

}  // extern "C"
