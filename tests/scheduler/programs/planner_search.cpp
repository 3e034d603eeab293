// Drives the shipped planner through every order of events of a small setting.
//
//   planner_search PAGE BLOCKS OVERLAP HOST_PAGES OUTPUT MOST_STATES
//
// Two requests with prompts of a page and a token share that page; each may have OUTPUT tokens of output. At any moment
// a client may submit or abort, the driver may ask for a plan, the oldest step may land, with or without the end of its
// requests, and any copy may end. A state is reached by replaying its events. In each one the lists agree with the
// machine, no proposal was refused, no step is above its budget, and a driver that only lets things happen comes to the
// end of every request. Prints the number of states, of events tried, and whether there were no more.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <unordered_set>
#include <vector>

#include "scheduler/core/scheduler.h"

namespace {

using tokenspeed::Scheduler;
using tokenspeed::SchedulerConfig;

enum Event : std::uint8_t { Submit0, Submit1, Abort0, Abort1, Plan, Land, LandLast, CopyDone };
constexpr int kMostCopies = 4;
constexpr std::size_t kRounds = 300;

struct World {
    World(const SchedulerConfig& config, std::int64_t output) : scheduler(config), output(output) {}

    Scheduler scheduler;
    std::int64_t output;
    std::vector<std::int64_t> copies;
    std::deque<std::shared_ptr<const tokenspeed::StepPlan>> steps;
    bool submitted[2] = {false, false};
    bool live[2] = {false, false};

    bool possible(int event) const {
        if (event <= Submit1) return !submitted[event - Submit0];
        if (event <= Abort1) return live[event - Abort0];
        if (event == Plan) return true;
        if (event <= LandLast) return !steps.empty();
        return event - CopyDone < static_cast<int>(copies.size());
    }

    void happens(int event) {
        if (event <= Submit1) {
            const int request = event - Submit0;
            const std::int64_t page = scheduler.config().block_size;
            const std::uint64_t own = request == 0 ? 100 : 200;
            std::vector<std::uint64_t> pages = {11};
            while (static_cast<std::int64_t>(pages.size() + 1) * page <= page + 1 + output) {
                pages.push_back(own + pages.size());
            }
            submitted[request] = true;
            live[request] = scheduler.submit_hashed(request, page + 1, pages, output).empty();
        } else if (event <= Abort1) {
            scheduler.abort(event - Abort0);
        } else if (event == Plan) {
            if (auto plan = scheduler.plan()) {
                if (plan->tokens > scheduler.config().max_step_tokens) throw std::runtime_error("above the budget");
                steps.push_back(std::move(plan));
            }
            const tokenspeed::CopyBatch batch = scheduler.take_copies();
            copies.insert(copies.end(), batch.ids.begin(), batch.ids.end());
        } else if (event <= LandLast) {
            const auto step = steps.front();
            steps.pop_front();
            const auto rows = static_cast<std::size_t>(step->sampling_rows);
            const std::vector<std::int32_t> tokens(rows, 1);
            const std::vector<std::uint8_t> stop(rows, event == LandLast ? 1 : 0);
            scheduler.land(step->step, tokens, {}, stop);
        } else {
            const std::int64_t id = copies[static_cast<std::size_t>(event - CopyDone)];
            copies.erase(copies.begin() + (event - CopyDone));
            scheduler.transfer_done({&id, 1});
        }
        for (const tokenspeed::Event& told : scheduler.events()) {
            const bool ended = told.kind == tokenspeed::EventKind::Finished ||
                               told.kind == tokenspeed::EventKind::Aborted ||
                               told.kind == tokenspeed::EventKind::Failed;
            if (ended) live[told.request_id] = false;
        }
        scheduler.clear_events();
        if (scheduler.stats().refusals > 0) throw std::runtime_error("a proposal was refused");
    }

    // Everything goes on until nothing is left to do.
    void drain() {
        for (std::size_t round = 0; round < kRounds; ++round) {
            const std::size_t before = steps.size();
            happens(Plan);
            if (steps.size() > before) continue;
            if (!steps.empty()) {
                happens(Land);
            } else if (!copies.empty()) {
                happens(CopyDone);
            } else if (live[0] || live[1]) {
                throw std::runtime_error("nothing happens any more, and a request has not ended");
            } else {
                if (scheduler.stats().held_blocks > 0) throw std::runtime_error("blocks are held by nobody");
                return;
            }
        }
        throw std::runtime_error("it goes on for ever");
    }
};

using Path = std::vector<std::uint8_t>;

std::unique_ptr<World> reached(const SchedulerConfig& config, std::int64_t output, const Path& path) {
    auto world = std::make_unique<World>(config, output);
    for (const int event : path) world->happens(event);
    return world;
}

}  // namespace

int main(int, char** arguments) {
    SchedulerConfig config;
    config.block_size = std::atoi(arguments[1]);
    config.num_blocks = std::atoi(arguments[2]);
    config.overlap_depth = std::atoi(arguments[3]);
    config.num_host_blocks = std::atoi(arguments[4]);
    config.max_running = 2;
    config.max_step_tokens = 3;
    config.host_copy_tokens_per_s = 1e6;
    config.prefill_tokens_per_s = 1;  // so that pages are copied whenever they may be
    config.max_retractions = 2;
    const std::int64_t output = std::atoi(arguments[5]);
    const auto most = static_cast<std::size_t>(std::atoll(arguments[6]));
    std::unordered_set<std::uint64_t> seen;
    std::deque<Path> open;
    std::uint64_t tried = 0;
    Path path;
    try {
        seen.insert(reached(config, output, {})->scheduler.fingerprint());
        open.push_back({});
        while (!open.empty() && seen.size() < most) {
            const Path from = std::move(open.front());
            open.pop_front();
            const auto here = reached(config, output, from);
            for (int event = 0; event < CopyDone + kMostCopies; ++event) {
                if (!here->possible(event)) continue;
                ++tried;
                path = from;
                path.push_back(static_cast<std::uint8_t>(event));
                const auto there = reached(config, output, path);
                // What was submitted, and which copies the driver has been told of, belong to the state.
                std::uint64_t state = there->scheduler.fingerprint() * 31 + there->copies.size();
                state = state * 4 + (there->submitted[0] ? 1 : 0) + (there->submitted[1] ? 2 : 0);
                if (!seen.insert(state).second) continue;
                there->scheduler.check();
                there->drain();
                open.push_back(path);
            }
        }
    } catch (const std::exception& error) {
        std::printf("wrong: %s, after", error.what());
        for (const int event : path) std::printf(" %d", event);
        std::printf("\n");
        return 1;
    }
    std::printf("%zu %llu %d\n", seen.size(), static_cast<unsigned long long>(tried), open.empty() ? 1 : 0);
    return 0;
}
