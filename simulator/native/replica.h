// One simulated replica: the scheduler, and a device and a link that take time. `world/replica.py`, without a Python
// visit for each step.
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "scheduler/core/scheduler.h"
#include "simulator/native/cost.h"
#include "simulator/native/steps.h"

namespace tokenspeed::simulator {

inline constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

// Columns of the calls, [calls] each, which belong to somebody else.
struct CallColumns {
    std::span<std::int64_t> admitted_ns, first_token_ns, finish_ns;
    std::span<std::int64_t> hit_tokens, host_hit_tokens, output_tokens, retractions;
};

class Replica {
  public:
    Replica(std::int64_t index, const SchedulerConfig& config, std::shared_ptr<const StepCost> cost,
            std::int64_t host_step_ns, CallColumns calls, std::shared_ptr<const Policy> policy);

    // Queue a call. Returns why it can never run, or an empty string.
    std::string submit(std::int64_t call, std::int64_t prompt_tokens, std::span<const std::uint64_t> page_hashes,
                       std::int64_t output_tokens);
    // Lose everything; returns the calls that were live, in the order in which they came.
    std::vector<std::int64_t> fail(std::int64_t now, std::shared_ptr<const Policy> policy);

    // When its next step lands or copy ends; kNever if none will.
    std::int64_t next_event() const { return next_event_; }
    // What happens then. Calls that end are appended to `finished`.
    void happen(std::vector<std::int64_t>& finished);
    // Whether something has happened that a plan should know of, and one can be made.
    bool wants_plan() const { return wants_plan_; }
    void plan(std::int64_t now);
    // Whether the policy has failed in a step that was planned.
    bool policy_failed() const { return policy_failed_; }

    // How many pages from the start of these the KV events say are on the device.
    std::int64_t stored_pages(std::span<const std::uint64_t> page_hashes) const;
    Stats stats() const { return scheduler_->stats(); }
    StepRecorder& steps() { return steps_; }

  private:
    struct Flight {
        std::int64_t step, start, end, sampled, context, pairs;
        Levels levels;
    };
    struct Copies {
        std::int64_t end, number;
        std::vector<std::int64_t> ids;
    };

    void start(std::int64_t now, std::shared_ptr<const Policy> policy);
    void want_plan() { wants_plan_ = in_flight_.size() < most_in_flight_; }
    void land(std::vector<std::int64_t>& finished);
    void end_copies();
    void start_copies(std::int64_t now);
    void note_events(std::int64_t now, std::vector<std::int64_t>* finished);
    void find_next_event();

    SchedulerConfig config_;
    std::shared_ptr<const StepCost> cost_;
    std::int64_t host_step_ns_;
    std::size_t most_in_flight_;
    CallColumns calls_;
    StepRecorder steps_;
    std::vector<std::int32_t> sampled_;

    std::unique_ptr<Scheduler> scheduler_;
    std::deque<Flight> in_flight_;
    std::deque<Copies> copying_[2];  // by direction, in order
    std::int64_t copy_free_ns_[2] = {0, 0};
    std::int64_t copies_started_ = 0;
    std::int64_t host_free_ns_ = 0, device_free_ns_ = 0;
    std::int64_t next_event_ = kNever;
    bool wants_plan_ = false, policy_failed_ = false;
    std::unordered_set<std::int64_t> stored_;
    std::vector<std::int64_t> live_;  // in the order in which they came; only kept short
};

}  // namespace tokenspeed::simulator
