#include "scheduler/core/contract/policy.h"

#include <algorithm>

#include "scheduler/core/contract/config.h"

namespace tokenspeed {

std::pair<std::int64_t, std::int64_t> Policy::place(const RequestView& request) const {
    return {request.priority, request.deadline};
}

// Per block that comes free: computing what is lost again, or copying it out and back, whichever is less. Blocks found
// in the cache are mostly held by others too: retracting their holder neither loses nor frees them.
double Policy::victim_cost(const RequestView& request, const SchedulerConfig& config) const {
    const std::int64_t shared = request.shared_blocks * config.block_size;
    const std::int64_t lost = std::max<std::int64_t>(request.computed_tokens - shared, 0);
    double cost = config.recompute_s(shared, lost);
    if (config.num_host_blocks > 0) cost = std::min(cost, 2 * config.copy_s(lost));
    return cost / static_cast<double>(std::max<std::int64_t>(request.blocks - request.shared_blocks, 1));
}

// A page that was found before, or whose owner continued a text, belongs to a session that comes back. What others
// could be tried was measured on traces (benchmarks/policies).
std::int64_t Policy::retention(const PageView& page) const {
    if (page.owner_returns) return 3;
    return page.uses > 0 || 2 * page.owner_hits > page.owner_pages ? 2 : 0;
}

bool Policy::fetch(const CopyView& copy) const {
    return copy.queued_s + copy.copy_s < copy.recompute_s;
}

// Out now and back later must be cheaper than computing the page again, and so must waiting for it.
bool Policy::spill(const PageView&, const CopyView& copy) const {
    return (copy.urgent ? copy.queued_s : 0) + 2 * copy.copy_s < copy.recompute_s;
}

// Computing the same tokens twice takes the device's time from everybody, also from the one who waits.
bool Policy::wait_for_prefix(std::int64_t own_tokens, std::int64_t remaining_tokens) const {
    return remaining_tokens <= 2 * own_tokens;
}

namespace {

// Pages in order of their last use, whatever their history.
class LeastRecentlyUsed final : public Policy {
  public:
    std::int64_t retention(const PageView&) const override { return 0; }
};

// Whoever arrived last makes room.
class YoungestVictim final : public Policy {
  public:
    double victim_cost(const RequestView& request, const SchedulerConfig&) const override {
        return -static_cast<double>(request.arrival);
    }
};

// Copies nothing: whatever is evicted is computed again.
class Recompute final : public Policy {
  public:
    bool fetch(const CopyView&) const override { return false; }
    bool spill(const PageView&, const CopyView&) const override { return false; }
};

template <class P>
std::unique_ptr<Policy> make() {
    return std::make_unique<P>();
}

struct Named {
    std::string_view name;
    std::unique_ptr<Policy> (*make)();
};

constexpr Named kPolicies[] = {
    {"default", make<Policy>},
    {"lru", make<LeastRecentlyUsed>},
    {"youngest-victim", make<YoungestVictim>},
    {"recompute", make<Recompute>},
};

}  // namespace

std::unique_ptr<Policy> make_policy(std::string_view name) {
    const auto* at =
        std::find_if(std::begin(kPolicies), std::end(kPolicies), [&](const Named& p) { return p.name == name; });
    return at == std::end(kPolicies) ? nullptr : at->make();
}

std::string policy_names() {
    std::string names;
    for (const Named& policy : kPolicies) names += (names.empty() ? "" : ", ") + std::string(policy.name);
    return names;
}

}  // namespace tokenspeed
