// tokfilter_classify DIRECTORY IMAGE: prints class and probability, or the embedding; and latency.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "answer.hpp"
#include "image.hpp"
#include "input.hpp"
#include "options.hpp"
#include "tokfilter/engine.hpp"

namespace {

constexpr std::int64_t kMaxPixels = 100'000'000;

int fail(const tokfilter::Status& status) {
    std::fprintf(stderr, "tokfilter_classify: %s\n", status.message().c_str());
    return 1;
}

double milliseconds_since(std::chrono::steady_clock::time_point start) {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

void print_class(const example::Answer& answer) {
    std::printf("class        %zu  %s\nprobability  %.4f\n", answer.number,
                example::printable(answer.name).c_str(), answer.probability);
}

// All numbers, with as many digits as give the same bits again.
void print_embedding(const std::vector<float>& embedding) {
    std::printf("embedding   ");
    for (const float value : embedding) std::printf(" %.9g", static_cast<double>(value));
    std::printf("\n");
}

}  // namespace

int main(int count, char** values) {
    example::Arguments arguments(count, values, example::with_engine_options({"runs"}), 2);
    const tokfilter::Options options = example::engine_options(arguments);
    const auto runs = static_cast<std::size_t>(arguments.number("runs", 20, 1, 1'000'000));
    if (!arguments.error.empty()) {
        std::fprintf(stderr,
                     "tokfilter_classify: %s\nusage: tokfilter_classify DIRECTORY IMAGE [--runs N] %s\n",
                     arguments.error.c_str(), example::kEngineUsage);
        return 2;
    }

    const auto image = example::read_image(arguments.words[1], kMaxPixels);
    if (!image.ok()) return fail(image.status());
    auto engine = tokfilter::Engine::open(arguments.words[0], options);
    if (!engine.ok()) return fail(engine.status());
    const auto info = engine->info();
    if (!info.ok()) return fail(info.status());
    const auto input =
        example::input_of(info->preprocess, {image->values.data(), image->height, image->width});
    if (!input.ok()) return fail(input.status());

    auto output = example::classify(*engine, *input, 1, options.tokens);  // warms up
    std::vector<double> latencies;
    while (output.ok() && latencies.size() < runs) {
        const auto start = std::chrono::steady_clock::now();
        output = example::classify(*engine, *input, 1, options.tokens);
        latencies.push_back(milliseconds_since(start));
    }
    if (!output.ok()) return fail(output.status());
    std::nth_element(latencies.begin(), latencies.begin() + static_cast<std::ptrdiff_t>(runs / 2),
                     latencies.end());
    if (info->embeds)
        print_embedding(output->logits);
    else
        print_class(example::answer_from_logits(output->logits.data(), *info));
    const auto& last = output->timing;
    std::printf("tokens       %lld of %lld\n", static_cast<long long>(output->tokens),
                static_cast<long long>(info->patches));
    std::printf("latency      %.3f ms, median of %zu runs from host to host\n", latencies[runs / 2], runs);
    std::printf("last run     %.3f ms to the GPU, %.3f ms compute, %.3f ms back\n",
                static_cast<double>(last.h2d_ms), static_cast<double>(last.compute_ms),
                static_cast<double>(last.d2h_ms));
    return 0;
}
