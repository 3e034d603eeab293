// The scheduler of one replica: events in, plans out. No clock, thread or device of its own.
//
// scheduler.cpp has the driver's events (submit, abort, land) and drafts.cpp its drafts; in planning/, planner.cpp
// decides what the next step executes, admission.cpp who joins it, prefixes.cpp what of a text is there already and
// pressure.cpp who makes room for whom; transfers.cpp is what is copied to and from the host. All only propose
// transitions to `Machine`, which is generated from the specification and checks every guard; recovery.cpp is for when
// it refuses.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "scheduler/core/contract/config.h"
#include "scheduler/core/contract/events.h"
#include "scheduler/core/contract/policy.h"
#include "scheduler/core/contract/step_plan.h"
#include "scheduler/core/memory/block_pool.h"
#include "scheduler/core/memory/host_tier.h"
#include "scheduler/core/memory/page_hash.h"
#include "scheduler/core/memory/prefix_table.h"
#include "scheduler/core/memory/staggered.h"
#include "scheduler/core/planning/plan_builder.h"
#include "scheduler/core/planning/round.h"
#include "scheduler/core/planning/waiting_line.h"
#include "scheduler/generated/machine.h"

namespace tokenspeed {

class Scheduler {
  public:
    // Without a policy the built-in default decides.
    explicit Scheduler(const SchedulerConfig& config, std::shared_ptr<const Policy> policy = nullptr);
    Scheduler(const Scheduler&) = delete;
    Scheduler& operator=(const Scheduler&) = delete;

    const SchedulerConfig& config() const { return config_; }

    // Queue a request. Returns why it can never run, or an empty string if it was accepted.
    std::string submit(std::int64_t request_id, std::span<const std::int32_t> tokens, std::int64_t max_new_tokens,
                       Urgency urgency = {});
    std::string submit_hashed(std::int64_t request_id, std::int64_t prompt_tokens,
                              std::span<const std::uint64_t> page_hashes, std::int64_t max_new_tokens,
                              Urgency urgency = {});
    void abort(std::int64_t request_id);

    // The next step to execute, or nullptr until an event changes something. Valid until the step has landed.
    std::shared_ptr<const StepPlan> plan();

    // Tokens that may follow the request's newest known one, at most `max_draft_tokens`: its next decode row carries
    // them. From the first call on the request has one row in flight at a time. No tokens take the offer back.
    void offer_drafts(std::int64_t request_id, std::span<const std::int32_t> tokens);

    // Results of the oldest step in flight. `counts` says for each sampling row how many of `tokens`, which follow each
    // other in row order, are its own, and `stop` whether the last of them ends the request; either may be empty: one
    // token for each row, nobody stops.
    void land(std::int64_t step, std::span<const std::int32_t> tokens, std::span<const std::int32_t> counts,
              std::span<const std::uint8_t> stop);

    // Copies to start now, beside the steps and in any order.
    CopyBatch take_copies() {
        refuse_while_deciding("copies");
        return host_.take_batch();
    }
    // These copies have ended.
    void transfer_done(std::span<const std::int64_t> copy_ids);

    // What happened since the last `clear_events`, oldest first.
    std::span<const Event> events() const { return events_; }
    void clear_events() { events_.clear(); }
    Stats stats() const;
    const Machine& machine() const { return machine_; }
    // Proposals of the planner that the machine has refused, oldest first, at most kMostRefusals.
    std::span<const Refusal> refusals() const { return refusals_; }
    // What was recorded since the last call; empty unless the configuration says record_trace.
    std::vector<TraceRecord> take_trace();
    std::uint64_t events_recorded() const { return trace_ == nullptr ? 0 : trace_->events(); }
    std::uint64_t events_lost() const { return trace_ == nullptr ? 0 : trace_->lost(); }
    // The same for two states that go on alike, and most likely for no others (fingerprint.cpp).
    std::uint64_t fingerprint() const;
    // Recounts lists and tables; throws InvariantViolated with the difference.
    void check() const;

  private:
    enum class Hold : std::uint8_t { None, Fetch, Prefix };

    // What the scheduler knows of a request beyond the specification's state.
    struct Record {
        std::int64_t request_id = 0;
        std::int32_t slot = -1;
        std::int32_t last_token = 0;  // the last of `tokens`: decoding needs no other
        bool hashed = false;
        TokenArray tokens;
        std::vector<PageHash> pages;
        std::int64_t pages_offered = 0;    // pages published or found to be published by another request
        std::int64_t pages_announced = 0;  // pages up to here that this request computes are in `computing_`
        std::int64_t entries_sent = 0;     // block-table entries that the runner has

        Urgency urgency;
        std::pair<std::int64_t, std::int64_t> place;  // in the waiting line
        std::int32_t retractions = 0;
        std::int32_t overtaken = 0;    // younger requests admitted while it was the oldest that waits
        std::int64_t hits = 0;         // pages that it found when it was admitted
        std::int64_t tail_tokens = 0;  // tokens of the partial page that it left behind when it was retracted
        std::int64_t fetched_tokens = 0;

        // While it waits although it is its turn: for a copy from the host, or for another to compute the prefix.
        Hold hold = Hold::None;
        std::int64_t fetches_left = 0;            // pages that it may still have copied back before it is admitted
        std::int64_t held_from = 0, held_to = 0;  // pages that are on their way from the host
        PageHash awaited;                         // the last page that another computes, or a tail on its way
        std::int64_t awaited_progress = 0;
        std::int32_t stalled_rounds = 0;  // in which whoever computes the prefix did not advance
        std::int64_t needed = 0;          // blocks that it will want
    };

    // What the driver expects a request to say next.
    struct Drafts {
        std::vector<std::int32_t> tokens;
        std::int64_t known = 0;  // tokens of the request when they were offered: with more they are out of date
        bool drafting = false;   // it has one row in flight at a time
    };

    // Throws AskedWhileDeciding if a policy that is being asked calls this.
    void refuse_while_deciding(const char* call) const;

    // Driver events (scheduler.cpp).
    std::string why_never(std::int64_t request_id, std::int64_t prompt_tokens, std::int64_t max_new_tokens) const;
    void enqueue(std::int64_t request_id, std::int64_t prompt_tokens, std::int64_t max_new_tokens, Record record);
    RequestId find(std::int64_t request_id) const;
    void check_results(const StepPlan& plan, std::span<const std::int32_t> tokens, std::span<const std::int32_t> counts,
                       std::span<const std::uint8_t> stop) const;
    void land_rows(const StepPlan& plan, std::span<const std::int32_t> tokens, std::span<const std::int32_t> counts,
                   std::span<const std::uint8_t> stop);
    void extend_hashes(Record& record);
    void publish(RequestId request);
    void leave(RequestId request);
    void recycle(RequestId request);
    void emit(EventKind kind, RequestId request, std::int64_t value);
    void emit_page(EventKind kind, std::int64_t page, const PageHash& prefix);

    // Planning (planning/planner.cpp).
    void propose();
    void plan_running();
    void promise(RequestId request);
    void plan_decode(RequestId request);
    void plan_prefill(RequestId request, std::int64_t budget);
    StepId open_step();
    void close_row(RequestId request, bool decodes);

    // What to do when the machine refuses (recovery.cpp).
    void recover(Guard refused);
    void give_up(RequestId request, Guard refused);
    void drop_abandoned(const StepPlan& plan);
    void launch_abandoned();
    void land_abandoned();
    void restore_lists();

    // Draft tokens (drafts.cpp).
    bool awaits_drafts(RequestId request) const;
    std::int64_t draft_tokens(RequestId request);

    // Who joins (planning/admission.cpp).
    enum class Admission : std::uint8_t { Admitted, PassOver, NoRoom };
    void plan_waiting();
    Admission admit(RequestId request);
    void run(RequestId request);
    void count_overtaking(RequestId request);
    bool still_held(Record& record) const;
    void match_prefix(const Record& record, std::int64_t known);
    BlockId find_tail(RequestId request) const;
    PageHash tail_hash(RequestId request, std::int64_t pages, std::int64_t tokens) const;
    bool waits_for_other(RequestId request);
    bool fetch_rest(RequestId request);
    std::int64_t whole_pages(const Record& record, std::int64_t known) const;
    std::int64_t fetch_limit(RequestId request) const;
    std::int64_t whole_need(RequestId request) const;
    bool is_protected(RequestId request) const;
    bool keeps_protection(RequestId request) const;
    void announce(RequestId request);
    void withdraw(Record& record, std::int64_t end);
    void check_chain(std::span<const std::uint64_t> page_hashes) const;
    HostId find_on_host(const Record& record, std::int64_t page) const;

    // Who makes room (planning/pressure.cpp).
    bool grow(RequestId request);
    BlockId take_block(bool urgent, BlockId kept = kNoBlock);
    bool memory_is_coming();
    bool oldest_waits() const;
    bool must_give_way(RequestId request) const;
    RequestId choose_victim(RequestId beneficiary);
    void retract(RequestId victim, RequestId beneficiary);
    void release_blocks(RequestId request);
    bool keep_tail(RequestId request, BlockId block);
    void evict(BlockId block);
    void stop_running(RequestId request);

    // The host tier (transfers.cpp).
    bool can_spill() const { return host_.can_spill(!oldest_waits()); }
    bool worth_spilling(BlockId block, bool urgent);
    void spill(BlockId block);
    void spill_ahead();
    BlockId fetch(HostId page, const PageHash& prefix, BlockId parent);

    // Scores of the policy; if it fails, or gives nothing usable, those of the default count (policy_scores.cpp).
    RequestView view(RequestId request) const;
    PageView page_view(BlockId block) const;
    template <class Ask>
    auto score(Ask&& ask);
    std::int64_t retention(RequestId owner, BlockId block);
    double victim_cost(RequestId request);
    std::pair<std::int64_t, std::int64_t> place(RequestId request);
    bool prefers_fetch(std::int64_t start, std::int64_t tokens);
    bool prefers_spill(BlockId block, bool urgent);
    bool prefers_waiting(std::int64_t own_tokens, std::int64_t remaining_tokens);

    SchedulerConfig config_;
    Machine machine_;
    BlockPool pool_;
    PageHasher hasher_;
    HostTier host_;
    PlanBuilder builder_;
    std::shared_ptr<const Policy> policy_;
    std::vector<Record> records_;
    std::vector<Drafts> drafts_;  // empty, or one for each record
    std::vector<RequestId> unused_;
    PrefixTable computing_;  // prefixes that running requests will publish
    std::vector<std::int32_t> free_slots_;
    std::unordered_map<std::int64_t, RequestId> by_id_;
    WaitingLine waiting_;
    std::vector<RequestId> running_;   // by arrival
    std::vector<RequestId> finished_;  // scratch of land
    std::vector<StepId> idle_steps_;
    std::vector<std::shared_ptr<StepPlan>> in_flight_;  // oldest first
    std::vector<Event> events_;
    std::unique_ptr<TraceBuffer> trace_;
    Stats totals_;
    std::int64_t arrivals_ = 0;

    Round round_;
    std::vector<BlockId> matched_;  // scratch: the prefix that the request being admitted found
    std::int64_t protected_ = 0;    // running requests that must not be retracted again
    std::uint64_t departures_ = 0;  // requests that have left `running_`
    // A request that has to be retracted as soon as no step has it: it gets no rows until then. With its arrival, since
    // the record may serve another meanwhile.
    RequestId doomed_ = kNone;
    std::int64_t doomed_arrival_ = 0;
    bool deciding_ = false;  // the policy is being asked
    std::vector<Refusal> refusals_;
};

}  // namespace tokenspeed
