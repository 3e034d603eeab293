// What is a matter of taste. A policy gives scores; the scheduler chooses by them among what is allowed, so a wrong
// policy can be slow or unfair, but never break a rule: victims are always younger than who they make room for and
// never the oldest, only what fits is admitted, and nobody is overtaken more than `kMaxOvertakes` times.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace tokenspeed {

struct SchedulerConfig;

inline constexpr std::int64_t kNoDeadline = std::numeric_limits<std::int64_t>::max();
// How often younger requests may be admitted before the oldest that waits; then it is next.
inline constexpr std::int32_t kMaxOvertakes = 64;
// Pages are kept in classes. One of class i is evicted when it is as old as one of class 0 that was released
// kRetention[i] pools of pages later.
inline constexpr std::array<double, 4> kRetention = {0.0, 0.5, 1.0, 2.0};

struct RequestView {
    std::int64_t request_id = 0, arrival = 0;
    std::int64_t priority = 0, deadline = kNoDeadline;  // as submitted; smaller is more urgent
    std::int64_t prompt_tokens = 0, known_tokens = 0, computed_tokens = 0, limit_tokens = 0;
    std::int64_t blocks = 0, shared_blocks = 0;  // blocks held; those that it found in the cache when it was admitted
    std::int64_t retractions = 0;
};

// A full page that nobody holds any more.
struct PageView {
    std::int64_t position = 0;     // of its first token
    std::int64_t uses = 0;         // how often requests have found it (counts up to 255)
    std::int64_t owner_pages = 0;  // full pages of the request that let go of it
    std::int64_t owner_hits = 0;   // of these, pages that it had found in the cache
    bool owner_returns = false;    // it was retracted, and will want the page again
};

// Whether to copy, and what it would cost instead. Seconds, from the figures in the configuration.
struct CopyView {
    std::int64_t tokens = 0;
    double copy_s = 0;       // on the link alone
    double queued_s = 0;     // what is queued on the link before it
    double recompute_s = 0;  // computing the tokens again
    bool urgent = false;     // somebody waits for it
};

class Policy {
  public:
    virtual ~Policy() = default;

    // Place in the waiting line, asked for once: smaller first, ties by arrival.
    virtual std::pair<std::int64_t, std::int64_t> place(const RequestView& request) const;
    // What it costs to retract this request; the cheapest of those allowed is retracted.
    virtual double victim_cost(const RequestView& request, const SchedulerConfig& config) const;
    // Retention class of a page, 0 to 3.
    virtual std::int64_t retention(const PageView& page) const;
    // Whether a waiting request's pages are copied back from the host instead of computed again.
    virtual bool fetch(const CopyView& copy) const;
    // Whether a page that may be evicted soon is copied to the host first.
    virtual bool spill(const PageView& page, const CopyView& copy) const;
    // Whether a request waits for another that is computing the same prefix. `own_tokens`: what it would compute twice;
    // `remaining_tokens`: what the other still has to compute before all of it is there.
    virtual bool wait_for_prefix(std::int64_t own_tokens, std::int64_t remaining_tokens) const;
};

// The built-in policy of this name, or nullptr.
std::unique_ptr<Policy> make_policy(std::string_view name);
// Their names with commas between.
std::string policy_names();

}  // namespace tokenspeed
