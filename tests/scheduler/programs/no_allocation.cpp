// Counts what the scheduler allocates while it plans and lands: overlap depth and block size on the command line.
//
// The same requests run three times, so that the last time everything has been as large before. Prints the number of
// steps, the blocks that were allocated on the way, and for plan and land of the last run how often memory was asked
// for.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <new>
#include <vector>

#include "scheduler/core/scheduler.h"

namespace {

bool counting = false;
long allocations = 0;

void* allocate(std::size_t size) {
    allocations += counting ? 1 : 0;
    if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
    throw std::bad_alloc();
}

template <class Call>
auto counted(Call call) {
    counting = true;
    auto result = call();
    counting = false;
    return result;
}

}  // namespace

void* operator new(std::size_t size) {
    return allocate(size);
}
void* operator new[](std::size_t size) {
    return allocate(size);
}
void operator delete(void* memory) noexcept {
    std::free(memory);
}
void operator delete[](void* memory) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
    std::free(memory);
}

int main(int, char** arguments) {
    const int overlap_depth = std::atoi(arguments[1]);
    const int block_size = std::atoi(arguments[2]);
    constexpr int kRequests = 32, kPrompt = 700, kOutput = 600;
    tokenspeed::SchedulerConfig config;
    config.block_size = block_size;
    config.num_blocks = kRequests * ((kPrompt + kOutput) / block_size + 2);
    config.max_running = kRequests;
    config.max_step_tokens = 2048;
    config.overlap_depth = overlap_depth;
    tokenspeed::Scheduler scheduler(config);
    const std::vector<std::int32_t> results(kRequests, 7);
    long steps = 0;
    std::int64_t id = 0;
    for (int run = 0; run < 3; ++run) {
        for (int i = 0; i < kRequests; ++i) {
            // Different first tokens, so that nobody shares and every page is published.
            const std::vector<std::int32_t> prompt(kPrompt - 20 * i, static_cast<std::int32_t>(1000 * run + i));
            if (!scheduler.submit(id++, prompt, kOutput).empty()) return 1;
        }
        const bool last = run == 2;
        const std::int64_t before = scheduler.machine().taken()[static_cast<int>(tokenspeed::Transition::allocate)];
        std::deque<std::shared_ptr<const tokenspeed::StepPlan>> in_flight;
        std::shared_ptr<const tokenspeed::StepPlan> held;  // a driver may still hold the plan that landed last
        allocations = 0;
        steps = 0;
        for (;;) {
            auto plan = counted([&] { return scheduler.plan(); });
            const bool idle = plan == nullptr;
            if (!idle) in_flight.push_back(std::move(plan));
            if (in_flight.empty()) break;
            if (!idle && static_cast<int>(in_flight.size()) <= overlap_depth) continue;
            held = std::move(in_flight.front());
            in_flight.pop_front();
            const auto rows = static_cast<std::size_t>(held->sampling_rows);
            counted([&] { return scheduler.land(held->step, {results.data(), rows}, {}, {}), 0; });
            scheduler.clear_events();
            ++steps;
        }
        if (last) {
            const std::int64_t blocks =
                scheduler.machine().taken()[static_cast<int>(tokenspeed::Transition::allocate)] - before;
            std::printf("%ld %ld %ld\n", steps, static_cast<long>(blocks), allocations);
        }
    }
    return 0;
}
