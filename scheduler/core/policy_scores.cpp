// Asks the policy. What it throws, and what is no score, is counted, and the default policy answers instead.
#include <cmath>

#include "scheduler/core/scheduler.h"

namespace tokenspeed {

namespace {

const Policy kDefault;

}  // namespace

template <class Ask>
auto Scheduler::score(Ask&& ask) {
    struct Deciding {
        bool& flag;
        explicit Deciding(bool& set) : flag(set) { flag = true; }
        ~Deciding() { flag = false; }
    };
    try {
        const Deciding deciding(deciding_);
        return ask(*policy_);
    } catch (...) {  // a policy may be written in Python and fail in any way
        ++totals_.policy_errors;
        return ask(kDefault);
    }
}

RequestView Scheduler::view(RequestId request) const {
    const Record& record = records_[request];
    return {
        .request_id = record.request_id,
        .arrival = machine_.arrival(request),
        .priority = record.urgency.priority,
        .deadline = record.urgency.deadline,
        .prompt_tokens = machine_.prompt(request),
        .known_tokens = machine_.known(request),
        .computed_tokens = machine_.computed(request),
        .limit_tokens = machine_.limit(request),
        .blocks = machine_.blocks(request),
        .shared_blocks = record.hits,
        .retractions = record.retractions,
    };
}

PageView Scheduler::page_view(BlockId block) const {
    return {.position = machine_.position(block), .uses = pool_.uses(block)};
}

std::int64_t Scheduler::retention(RequestId owner, BlockId block) {
    PageView page = page_view(block);
    page.owner_pages = machine_.computed(owner) / config_.block_size;
    page.owner_hits = records_[owner].hits;
    page.owner_returns = machine_.request_state(owner) == RequestState::Retracting;
    const std::int64_t kept = score([&](const Policy& policy) { return policy.retention(page); });
    if (kept >= 0 && kept < static_cast<std::int64_t>(kRetention.size())) return kept;
    ++totals_.policy_errors;
    return kDefault.retention(page);
}

double Scheduler::victim_cost(RequestId request) {
    const RequestView seen = view(request);
    const double cost = score([&](const Policy& policy) { return policy.victim_cost(seen, config_); });
    if (!std::isnan(cost)) return cost;
    ++totals_.policy_errors;
    return kDefault.victim_cost(seen, config_);
}

std::pair<std::int64_t, std::int64_t> Scheduler::place(RequestId request) {
    const RequestView seen = view(request);
    return score([&](const Policy& policy) { return policy.place(seen); });
}

bool Scheduler::prefers_fetch(std::int64_t start, std::int64_t tokens) {
    const CopyView copy{.tokens = tokens,
                        .copy_s = config_.copy_s(tokens),
                        .queued_s = config_.copy_s(host_.queued(CopyKind::Fetch)),
                        .recompute_s = config_.recompute_s(start, tokens),
                        .urgent = true};
    return score([&](const Policy& policy) { return policy.fetch(copy); });
}

bool Scheduler::prefers_spill(BlockId block, bool urgent) {
    const std::int64_t tokens = machine_.fill(block);
    const CopyView copy{.tokens = tokens,
                        .copy_s = config_.copy_s(tokens),
                        .queued_s = config_.copy_s(host_.queued(CopyKind::Spill)),
                        .recompute_s = config_.recompute_s(machine_.position(block), tokens),
                        .urgent = urgent};
    const PageView page = page_view(block);
    return score([&](const Policy& policy) { return policy.spill(page, copy); });
}

bool Scheduler::prefers_waiting(std::int64_t own_tokens, std::int64_t remaining_tokens) {
    return score([&](const Policy& policy) { return policy.wait_for_prefix(own_tokens, remaining_tokens); });
}

}  // namespace tokenspeed
