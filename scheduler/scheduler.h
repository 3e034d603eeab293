// The scheduler of one replica: events in, plans out. No clock, thread or device of its own.
//
// scheduler.cpp has the driver's events (submit, abort, land), planner.cpp decides what the next step executes. Both
// only propose transitions to `Machine`, which is generated from the specification and checks every guard.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "block_pool.h"
#include "config.h"
#include "generated/machine.h"
#include "page_hash.h"
#include "prefix_table.h"
#include "step_plan.h"

namespace tokenspeed {

enum class EventKind : std::int64_t { Admitted, FirstToken, Finished, Aborted, Retracted };

struct Event {
    EventKind kind;
    std::int64_t request_id;
    std::int64_t value;
};

struct Stats {
    std::int64_t num_blocks = 0, free_blocks = 0, cached_blocks = 0, held_blocks = 0;
    std::int64_t waiting = 0, running = 0, steps_in_flight = 0, live_requests = 0;
    std::int64_t steps = 0, scheduled_tokens = 0, output_tokens = 0;
    std::int64_t submitted = 0, finished = 0, aborted = 0, retractions = 0, evictions = 0;
    std::int64_t prefix_query_tokens = 0, prefix_hit_tokens = 0;
};

class Scheduler {
  public:
    explicit Scheduler(const SchedulerConfig& config);
    Scheduler(const Scheduler&) = delete;
    Scheduler& operator=(const Scheduler&) = delete;

    const SchedulerConfig& config() const { return config_; }

    // Queue a request. Returns why it can never run, or an empty string if it was accepted.
    std::string submit(std::int64_t request_id, std::span<const std::int32_t> tokens, std::int64_t max_new_tokens);
    std::string submit_hashed(std::int64_t request_id, std::int64_t prompt_tokens,
                              std::span<const std::uint64_t> page_hashes, std::int64_t max_new_tokens);
    void abort(std::int64_t request_id);

    // The next step to execute, or nullptr until an event changes something. Valid until the step has landed.
    std::shared_ptr<const StepPlan> plan();

    // Results of the oldest step in flight; `stop` may be empty.
    void land(std::int64_t step, std::span<const std::int32_t> tokens, std::span<const std::uint8_t> stop);

    // What happened since the last `clear_events`, oldest first.
    std::span<const Event> events() const { return events_; }
    void clear_events() { events_.clear(); }
    Stats stats() const;
    const Machine& machine() const { return machine_; }
    // What was recorded since the last call; empty unless the configuration says record_trace.
    std::vector<TraceRecord> take_trace();
    std::uint64_t events_recorded() const { return trace_ == nullptr ? 0 : trace_->events(); }
    std::uint64_t events_lost() const { return trace_ == nullptr ? 0 : trace_->lost(); }
    // Recounts lists and tables; throws InvariantViolated with the difference.
    void check() const;

  private:
    // What the scheduler knows of a request beyond the specification's state.
    struct Record {
        std::int64_t request_id = 0;
        std::int32_t slot = -1;
        std::int32_t last_token = 0;  // the last of `tokens`: decoding needs no other
        bool hashed = false;
        std::vector<std::int32_t> tokens;
        std::vector<PageHash> pages;
        std::int64_t pages_offered = 0;    // pages published or found to be published by another request
        std::int64_t pages_announced = 0;  // pages up to here that this request computes are in `computing_`
        std::int64_t entries_sent = 0;     // block-table entries that the runner has
    };

    // Driver events (scheduler.cpp).
    std::string why_never(std::int64_t request_id, std::int64_t prompt_tokens, std::int64_t max_new_tokens) const;
    void enqueue(std::int64_t request_id, std::int64_t prompt_tokens, std::int64_t max_new_tokens, Record record);
    RequestId find(std::int64_t request_id) const;
    void land_rows(const StepPlan& plan, std::span<const std::int32_t> tokens, std::span<const std::uint8_t> stop);
    void extend_hashes(Record& record);
    void publish(RequestId request);
    void release_blocks(RequestId request);
    void leave(RequestId request);
    void recycle(RequestId request);
    void emit(EventKind kind, RequestId request, std::int64_t value);

    // Planning (planner.cpp).
    void plan_running();
    void plan_waiting();
    void promise(RequestId request);
    bool admit(RequestId request);
    void announce(RequestId request);
    void withdraw(Record& record, std::int64_t end);
    bool being_computed(const Record& record) const;
    void match_prefix(const Record& record, std::int64_t known);
    void plan_decode(RequestId request);
    void plan_prefill(RequestId request, std::int64_t budget);
    bool grow(RequestId request);
    void retract(RequestId victim, RequestId beneficiary);
    void open_row(RequestId request);
    void close_row(RequestId request);
    static void append_tokens(StepPlan& plan, const Record& record, std::int64_t start, std::int64_t tokens);
    StepPlan& open_plan();
    std::shared_ptr<StepPlan> unused_plan();

    SchedulerConfig config_;
    Machine machine_;
    BlockPool pool_;
    PageHasher hasher_;
    std::vector<Record> records_;
    std::vector<RequestId> unused_;
    PrefixTable computing_;  // prefixes that running requests will publish
    std::vector<std::int32_t> free_slots_;
    std::unordered_map<std::int64_t, RequestId> by_id_;
    std::deque<RequestId> waiting_;    // by arrival
    std::vector<RequestId> running_;   // by arrival
    std::vector<RequestId> finished_;  // scratch of land
    std::vector<StepId> idle_steps_;
    std::vector<std::shared_ptr<StepPlan>> in_flight_;    // oldest first
    std::vector<std::shared_ptr<StepPlan>> spare_plans_;  // landed; the driver may still hold some
    std::vector<Event> events_;
    std::unique_ptr<TraceBuffer> trace_;
    Stats totals_;
    std::int64_t arrivals_ = 0;

    // While planning.
    std::shared_ptr<StepPlan> open_;
    std::int64_t budget_ = 0;
    std::int64_t decodes_to_come_ = 0;
    std::int64_t promised_blocks_ = 0;
    std::vector<BlockId> matched_;  // the prefix that the request being admitted found
    std::int64_t held_back_ = 0;    // requests that arrived at or after this wait: an older one needs the memory

    // The head of the line did not fit: how many blocks it needs, and for which state of the prefix index.
    struct Parked {
        RequestId request = -1;
        std::int64_t arrival = 0;
        std::uint64_t version = 0;
        std::int64_t blocks_needed = 0;
    } parked_;
};

}  // namespace tokenspeed
