// What a driver sees of a planner that proposes what is forbidden: link it with a source that has a planted fault.
//
// A request's pages are cached while a step in flight may read them, and another request wants them. Prints the events
// (kind, request) after that, the refusals, and what is held in the end; exit status 1 if the books do not balance.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <vector>

#include "scheduler/core/scheduler.h"

namespace {

void land(tokenspeed::Scheduler& scheduler, const tokenspeed::StepPlan& plan) {
    const std::vector<std::int32_t> tokens(static_cast<std::size_t>(plan.sampling_rows), 0);
    scheduler.land(plan.step, tokens, {}, {});
    scheduler.check();
}

}  // namespace

int main() try {
    tokenspeed::SchedulerConfig config;
    config.num_blocks = 4;
    config.block_size = 4;
    config.max_running = 3;
    config.max_step_tokens = 64;
    tokenspeed::Scheduler scheduler(config);
    const std::vector<std::int32_t> first(8, 1), second(15, 2), third(1, 3);
    scheduler.submit(1, first, 3);
    land(scheduler, *scheduler.plan());
    const auto flying = scheduler.plan();
    scheduler.abort(1);
    scheduler.clear_events();
    scheduler.submit(2, second, 1);
    scheduler.submit(3, third, 2);
    std::shared_ptr<const tokenspeed::StepPlan> next = scheduler.plan();
    scheduler.check();
    land(scheduler, *flying);
    while (next != nullptr || (next = scheduler.plan()) != nullptr) {
        land(scheduler, *next);
        next = nullptr;
    }
    for (const tokenspeed::Event& event : scheduler.events()) {
        std::printf("%lld %lld\n", static_cast<long long>(event.kind), static_cast<long long>(event.request_id));
    }
    for (const tokenspeed::Refusal& refusal : scheduler.refusals()) {
        const auto name = tokenspeed::kGuardNames[static_cast<std::size_t>(refusal.guard)];
        std::printf("refused %lld %.*s\n", static_cast<long long>(refusal.request_id), static_cast<int>(name.size()),
                    name.data());
    }
    const tokenspeed::Stats stats = scheduler.stats();
    return stats.held_blocks == 0 && stats.live_requests == 0 ? 0 : 1;
} catch (const std::exception& error) {
    std::printf("error: %s\n", error.what());
    return 1;
}
