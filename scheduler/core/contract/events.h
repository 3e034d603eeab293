// What a driver is told between steps, and what it may say about a client.
#pragma once

#include <cstddef>
#include <cstdint>

#include "scheduler/core/contract/policy.h"

namespace tokenspeed {

enum class EventKind : std::int64_t {
    Admitted,
    FirstToken,
    Finished,
    Aborted,
    Retracted,
    // With kv_events: number of the page in its text, and the low 64 bits of the hash of the prefix that it ends.
    KvStored,
    KvRemoved,
    HostStored,
    HostRemoved,
    Fetched,  // comes before Admitted: prompt tokens that were copied back from the host
    Failed,   // the planner proposed for the request what is forbidden, and it has ended: number of the guard
};

struct Event {
    EventKind kind;
    std::int64_t request_id;
    std::int64_t value;
};

// A proposal of the planner that the machine refused: a defect of this scheduler, which ended one request.
struct Refusal {
    std::int64_t step;        // number of the newest step that had been opened
    std::int64_t request_id;  // -1 if it was for nobody
    std::int64_t guard;
};
inline constexpr std::size_t kMostRefusals = 64;

struct Stats {
    std::int64_t num_blocks = 0, free_blocks = 0, cached_blocks = 0, held_blocks = 0;
    std::int64_t waiting = 0, running = 0, steps_in_flight = 0, live_requests = 0;
    std::int64_t steps = 0, scheduled_tokens = 0, output_tokens = 0;
    std::int64_t submitted = 0, finished = 0, aborted = 0, retractions = 0, evictions = 0;
    std::int64_t prefix_query_tokens = 0, prefix_hit_tokens = 0, host_hit_tokens = 0;
    std::int64_t num_host_blocks = 0, host_used_blocks = 0, copies_in_flight = 0;
    std::int64_t spills = 0, fetches = 0, host_evictions = 0, tails_kept = 0, tails_matched = 0;
    std::int64_t draft_tokens = 0, accepted_draft_tokens = 0;  // that were in rows, and of these those that landed
    std::int64_t most_retractions = 0;                         // of one request
    std::int64_t policy_errors = 0;                            // scores that could not be used
    std::int64_t refusals = 0;                                 // proposals of the planner that the machine refused

    // Calls f(name, pointer to member) for every figure.
    template <class F>
    static void visit(F&& f) {
        f("num_blocks", &Stats::num_blocks);
        f("free_blocks", &Stats::free_blocks);
        f("cached_blocks", &Stats::cached_blocks);
        f("held_blocks", &Stats::held_blocks);
        f("waiting", &Stats::waiting);
        f("running", &Stats::running);
        f("steps_in_flight", &Stats::steps_in_flight);
        f("live_requests", &Stats::live_requests);
        f("steps", &Stats::steps);
        f("scheduled_tokens", &Stats::scheduled_tokens);
        f("output_tokens", &Stats::output_tokens);
        f("submitted", &Stats::submitted);
        f("finished", &Stats::finished);
        f("aborted", &Stats::aborted);
        f("retractions", &Stats::retractions);
        f("evictions", &Stats::evictions);
        f("prefix_query_tokens", &Stats::prefix_query_tokens);
        f("prefix_hit_tokens", &Stats::prefix_hit_tokens);
        f("host_hit_tokens", &Stats::host_hit_tokens);
        f("num_host_blocks", &Stats::num_host_blocks);
        f("host_used_blocks", &Stats::host_used_blocks);
        f("copies_in_flight", &Stats::copies_in_flight);
        f("spills", &Stats::spills);
        f("fetches", &Stats::fetches);
        f("host_evictions", &Stats::host_evictions);
        f("tails_kept", &Stats::tails_kept);
        f("tails_matched", &Stats::tails_matched);
        f("draft_tokens", &Stats::draft_tokens);
        f("accepted_draft_tokens", &Stats::accepted_draft_tokens);
        f("most_retractions", &Stats::most_retractions);
        f("policy_errors", &Stats::policy_errors);
        f("refusals", &Stats::refusals);
    }
};

// How urgent the client is; smaller is more urgent. What it means is up to the policy.
struct Urgency {
    std::int64_t priority = 0;
    std::int64_t deadline = kNoDeadline;
};

}  // namespace tokenspeed
