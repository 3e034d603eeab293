// Counts the functions that plan and land enter (compile with -finstrument-functions -O0): a measure of work that is
// the same on every machine and every run.
//
//   work_of_a_step CONTEXT RUNNING WAITING full|promised
//
// Brings RUNNING requests of CONTEXT tokens to decoding, lets WAITING others of the same length queue, and prints the
// calls of each of ten decode steps in the middle of a page. The pool is full; or it has pages, but nobody may be
// retracted, and all that those that run may still need is more.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "scheduler/core/scheduler.h"

namespace {

constexpr int kPage = 64;
constexpr int kOutput = 400;

long calls = 0;

}  // namespace

extern "C" {
__attribute__((no_instrument_function)) void __cyg_profile_func_enter(void*, void*) {
    ++calls;
}
__attribute__((no_instrument_function)) void __cyg_profile_func_exit(void*, void*) {}
}

int main(int, char** arguments) {
    const int context = std::atoi(arguments[1]), running = std::atoi(arguments[2]), waiting = std::atoi(arguments[3]);
    tokenspeed::SchedulerConfig config;
    config.block_size = kPage;
    if (std::string_view(arguments[4]) == "promised") {
        config.max_retractions = 0;
        config.num_blocks = (running + 1) * ((context + kOutput) / kPage + 1) - 1;
    } else {
        config.num_blocks = running * (context / kPage + 3) + 5;  // full when the others come
    }
    config.max_running = running + waiting;
    config.max_step_tokens = running * context + waiting;  // all start in the same step
    config.overlap_depth = 0;
    tokenspeed::Scheduler scheduler(config);
    std::int64_t id = 0;
    const auto submit = [&] {
        const std::vector<std::int32_t> prompt(context, static_cast<std::int32_t>(id));  // nobody shares a page
        return scheduler.submit(id++, prompt, kOutput).empty();
    };
    const std::vector<std::int32_t> results(running + waiting, 7);
    const auto step = [&] {
        const auto plan = scheduler.plan();
        if (plan == nullptr) std::exit(1);
        scheduler.land(plan->step, {results.data(), static_cast<std::size_t>(plan->sampling_rows)}, {}, {});
    };
    for (int i = 0; i < running; ++i) {
        if (!submit()) return 1;
    }
    while (scheduler.machine().known(0) < context + 2 * kPage + 8) step();
    for (int i = 0; i < waiting; ++i) {
        if (!submit()) return 1;
    }
    step();  // the first look at the line
    if (scheduler.stats().waiting != waiting) return 2;
    for (int i = 0; i < 10; ++i) {
        const long before = calls;
        step();
        std::printf("%ld ", calls - before);
    }
    return 0;
}
