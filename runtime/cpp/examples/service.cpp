#include "service.hpp"

#include <algorithm>
#include <utility>

namespace example {

Service::Service(tokfilter::Engine engine, tokfilter::Info info, std::int64_t tokens, std::size_t limit)
    : engine_(std::move(engine)), info_(std::move(info)), tokens_(tokens), queue_(limit), worker_([this] {
          work();
      }) {}

Service::~Service() {
    queue_.close();
    worker_.join();
}

std::optional<std::future<Service::Outcome>> Service::submit(Input input) {
    Job job{std::move(input), {}};
    auto outcome = job.outcome.get_future();
    if (queue_.push(job)) return outcome;
    ++refused;
    return std::nullopt;
}

void Service::work() {
    while (true) {
        auto jobs = queue_.take(static_cast<std::size_t>(info_.batch.high));
        if (jobs.empty()) return;
        run(jobs);
    }
}

void Service::run(std::vector<Job>& jobs) {
    const auto batch = std::max(static_cast<std::int64_t>(jobs.size()), info_.batch.low);
    Input images = jobs.front().input;
    for (std::size_t i = 1; i < jobs.size(); ++i) append(images, jobs[i].input);
    // Pad a batch below the plan's minimum with copies of the last image.
    for (auto i = static_cast<std::int64_t>(jobs.size()); i < batch; ++i) append(images, jobs.back().input);
    const auto output = classify(engine_, images, batch, tokens_);
    const auto classes = static_cast<std::size_t>(info_.classes);
    for (std::size_t i = 0; i < jobs.size(); ++i) {
        output.ok() ? ++served : ++failed;
        jobs[i].outcome.set_value(
            output.ok() ? Outcome(answer_from_logits(output->logits.data() + i * classes, info_))
                        : Outcome(output.status()));
    }
}

}  // namespace example
