// What `__main__.py` runs under callgrind: decode steps of a full batch, or turns of resident sessions.
//
//   drive decode BATCH CONTEXT STEPS      STEPS calls of `measured`, each plan + land
//   drive turn CONTEXT TURNS              TURNS calls of `measured`, each submit + first plan of a session's next turn
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "scheduler/core/scheduler.h"

namespace {

constexpr int kPage = 64;

tokenspeed::SchedulerConfig config_for(int batch, int context) {
    tokenspeed::SchedulerConfig config;
    config.num_blocks = batch * (context / kPage + 70) + 8;
    config.max_step_tokens = 65536;
    config.overlap_depth = 0;
    return config;
}

std::vector<std::int32_t> prompt(int length, int seed) {
    std::vector<std::int32_t> tokens(length);
    for (int i = 0; i < length; ++i) tokens[i] = (i * 2654435761U + seed) % 100000;
    return tokens;
}

void land(tokenspeed::Scheduler& scheduler, const tokenspeed::StepPlan& plan) {
    const std::vector<std::int32_t> results(plan.sampling_rows, 7);
    scheduler.land(plan.step, results, {}, {});
    scheduler.clear_events();
}

namespace decode {
[[gnu::noinline]] void measured(tokenspeed::Scheduler& scheduler, std::span<const std::int32_t> results) {
    const auto plan = scheduler.plan();
    scheduler.land(plan->step, results, {}, {});
}
}  // namespace decode

namespace turn {
[[gnu::noinline]] std::shared_ptr<const tokenspeed::StepPlan> measured(tokenspeed::Scheduler& scheduler,
                                                                       std::int64_t id,
                                                                       std::span<const std::int32_t> tokens) {
    scheduler.submit(id, tokens, 2);
    return scheduler.plan();
}
}  // namespace turn

void decodes(int batch, int context, int steps) {
    tokenspeed::Scheduler scheduler(config_for(batch, context));
    for (int i = 0; i < batch; ++i) scheduler.submit(i, prompt(context, i), 4000);
    const std::vector<std::int32_t> results(batch, 7);
    for (;;) {
        const auto plan = scheduler.plan();
        land(scheduler, *plan);
        if (plan->decode_rows == batch) break;
    }
    for (int i = 0; i < steps; ++i) decode::measured(scheduler, results);
}

void turns(int context, int turns) {
    tokenspeed::Scheduler scheduler(config_for(4, context + 200 * turns));
    std::vector<std::int32_t> session = prompt(context, 0);
    scheduler.submit(-1, session, 2);
    while (const auto plan = scheduler.plan()) land(scheduler, *plan);
    for (int i = 0; i < turns; ++i) {
        const auto more = prompt(200, i + 1);
        session.insert(session.end(), more.begin(), more.end());
        auto plan = turn::measured(scheduler, i, session);
        while (plan != nullptr) {
            land(scheduler, *plan);
            plan = scheduler.plan();
        }
    }
}

}  // namespace

int main(int, char** arguments) {
    if (std::string(arguments[1]) == "decode") {
        decodes(std::atoi(arguments[2]), std::atoi(arguments[3]), std::atoi(arguments[4]));
    } else {
        turns(std::atoi(arguments[2]), std::atoi(arguments[3]));
    }
    return 0;
}
