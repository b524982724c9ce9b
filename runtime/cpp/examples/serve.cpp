// tokfilter_serve DIRECTORY: HTTP server. POST an image to /classify, get its class; GET /health. On SIGTERM
// it answers the accepted requests and exits.
#include <pthread.h>
#include <sys/socket.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "image.hpp"
#include "options.hpp"
#include "pool.hpp"
#include "service.hpp"
#include "tokfilter/engine.hpp"

namespace {

using Json = nlohmann::json;

constexpr auto kUsage = "usage: tokfilter_serve DIRECTORY [--host ADDRESS] [--port N] [--queue N] ";
constexpr std::size_t kMaxBody = 20U << 20U;
constexpr std::int64_t kMaxPixels = 24'000'000;  // 100 MB while it is decoded
constexpr std::size_t kSpareThreads = 8;         // for 503 and /health while all others wait for the engine

int fail(const std::string& message) {
    std::fprintf(stderr, "tokfilter_serve: %s\n", message.c_str());
    return 1;
}

void reply(httplib::Response& response, int status, const Json& content) {
    response.status = status;
    if (status == 503) response.set_header("Retry-After", "1");
    // Class names and messages may be invalid UTF-8.
    response.set_content(content.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n",
                         "application/json");
}

// Decode and preprocess; the gate limits concurrency, because each call may need 100 MB.
tokfilter::Result<example::Input> input_of(const std::string& body, const tokfilter::Info& info,
                                           example::Gate& gate) {
    const example::Gate::Pass pass(gate);
    const auto image =
        example::decode(reinterpret_cast<const std::uint8_t*>(body.data()), body.size(), kMaxPixels);
    if (!image.ok()) return image.status();
    return example::input_of(info.preprocess, {image->values.data(), image->height, image->width});
}

void classify(const httplib::Request& request, httplib::Response& response, example::Service& service,
              example::Gate& gate) {
    const auto start = std::chrono::steady_clock::now();
    auto input = input_of(request.body, service.info(), gate);
    if (!input.ok()) return reply(response, 400, {{"error", input.status().message()}});
    auto outcome = service.submit(*std::move(input));
    if (!outcome) return reply(response, 503, {{"error", "overloaded: the queue is full. Try again."}});
    const auto answer = outcome->get();
    if (!answer.ok()) return reply(response, 500, {{"error", answer.status().message()}});
    const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - start;
    reply(response, 200,
          {{"class", answer->name},
           {"number", answer->number},
           {"probability", answer->probability},
           {"milliseconds", spent.count()}});
}

void health(httplib::Response& response, const example::Service& service) {
    reply(response, 200,
          {{"status", "ok"},
           {"plan", service.info().plan},
           {"waiting", service.waiting()},
           {"served", service.served.load()},
           {"refused", service.refused.load()},
           {"failed", service.failed.load()}});
}

int serve(example::Service& service, const std::string& host, int port, std::size_t queue,
          const sigset_t& signals) {
    httplib::Server server;
    example::Gate gate(std::max(1U, std::thread::hardware_concurrency()));
    server.new_task_queue = [queue] {
        return new example::BoundedPool(queue + kSpareThreads, kSpareThreads);
    };
    // Not cpp-httplib's SO_REUSEPORT, with which a second server on the same port would get half of the
    // requests.
    server.set_socket_options([](auto socket) {
        const int yes = 1;
        setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    });
    server.set_payload_max_length(kMaxBody);
    server.set_keep_alive_timeout(1);  // seconds that an idle connection may hold a thread or delay the exit
    server.set_read_timeout(5);
    server.Post("/classify",
                [&](const auto& request, auto& response) { classify(request, response, service, gate); });
    server.Get("/health", [&](const auto&, auto& response) { health(response, service); });
    server.set_error_handler([](const auto&, auto& response) {
        if (response.body.empty())
            reply(response, response.status, {{"error", "HTTP status " + std::to_string(response.status)}});
    });
    const int bound =
        port == 0 ? server.bind_to_any_port(host) : (server.bind_to_port(host, port) ? port : -1);
    if (bound < 0)
        return fail("cannot listen on " + host + " port " + std::to_string(port) + ": is it taken?");

    std::thread stopper([&] {
        int signal = 0;
        sigwait(&signals, &signal);
        std::fprintf(stderr, "tokfilter_serve: stopping, %zu waiting\n", service.waiting());
        server.stop();
    });
    std::printf("listening on http://%s:%d\n", host.c_str(), bound);
    std::fflush(stdout);
    const bool ended = server.listen_after_bind();
    pthread_kill(stopper.native_handle(), SIGTERM);  // in case listening ended without a signal
    stopper.join();
    std::fprintf(stderr, "tokfilter_serve: served %llu, refused %llu\n",
                 static_cast<unsigned long long>(service.served.load()),
                 static_cast<unsigned long long>(service.refused.load()));
    return ended ? 0 : 1;
}

}  // namespace

int main(int count, char** values) {
    example::Arguments arguments(count, values, example::with_engine_options({"host", "port", "queue"}), 1);
    const tokfilter::Options options = example::engine_options(arguments);
    const auto queue = static_cast<std::size_t>(arguments.number("queue", 64, 1, 800));
    const auto port = static_cast<int>(arguments.number("port", 8080, 0, 65535));
    if (!arguments.error.empty()) return fail(arguments.error + "\n" + kUsage + example::kEngineUsage), 2;

    // Blocked before any thread starts and inherited by all: only sigwait receives these signals.
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    std::signal(SIGPIPE, SIG_IGN);  // closed connections are errors of send, not signals

    auto engine = tokfilter::Engine::open(arguments.words[0], options);
    if (!engine.ok()) return fail(engine.status().message());
    auto info = engine->info();
    if (!info.ok()) return fail(info.status().message());
    if (info->embeds)
        return fail("this server answers with classes, and the model of " + info->plan +
                    " gives an embedding: `tokfilter serve` has POST /embed.");
    example::Service service(*std::move(engine), *std::move(info), options.tokens, queue);
    return serve(service, arguments.text("host", "127.0.0.1"), port, queue, signals);
}
