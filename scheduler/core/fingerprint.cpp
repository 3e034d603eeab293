// A number for all that decides what the scheduler does next, so that a search can tell states apart. Two states of one
// number go on alike: step and arrival numbers count only in relation to each other, and so do the ranks of pages.
#include <algorithm>
#include <array>
#include <cstddef>
#include <map>
#include <string_view>
#include <vector>

#include "scheduler/core/scheduler.h"

namespace tokenspeed {

namespace {

constexpr std::array<std::string_view, 6> kStepNumbers{"number", "opened", "launched", "landed", "stamp", "last_step"};
constexpr std::array<std::string_view, 4> kNames{"key", "before", "host_key", "host_before"};
// Names from here on are made with the random key: which of them a page has is told by who would find it.
constexpr std::int64_t kRandomNames = std::int64_t{1} << 20;
constexpr std::array<std::string_view, 2> kArrivals{"arrival", "newest_arrival"};

class Mixer {
  public:
    void add(std::int64_t value) {
        state_ ^= static_cast<std::uint64_t>(value) + 0x9e3779b97f4a7c15ULL + (state_ << 6) + (state_ >> 2);
        state_ *= 0xbf58476d1ce4e5b9ULL;
        state_ ^= state_ >> 29;
    }
    std::uint64_t value() const { return state_; }

  private:
    std::uint64_t state_ = 0x243f6a8885a308d3ULL;
};

// What orders values: each is replaced by how many smaller ones there are.
std::int64_t rank_of(const std::vector<std::int64_t>& sorted, std::int64_t value) {
    return std::lower_bound(sorted.begin(), sorted.end(), value) - sorted.begin();
}

void sort_out(std::vector<std::int64_t>& values) {
    std::sort(values.begin(), values.end());
    values.erase(std::unique(values.begin(), values.end()), values.end());
}

}  // namespace

std::uint64_t Scheduler::fingerprint() const {
    Mixer mix;
    std::vector<std::int64_t> steps{0}, arrivals{0};
    const auto one_of = [](const auto& names, std::string_view name) { return std::ranges::count(names, name) > 0; };
    machine_.visit([&](std::string_view name, const std::vector<int>&, std::int64_t value) {
        if (one_of(kStepNumbers, name)) steps.push_back(value);
        if (one_of(kArrivals, name)) arrivals.push_back(value);
    });
    sort_out(steps);
    sort_out(arrivals);
    machine_.visit([&](std::string_view name, const std::vector<int>& index, std::int64_t value) {
        for (const int i : index) mix.add(i);
        if (one_of(kStepNumbers, name)) value = rank_of(steps, value);
        if (one_of(kArrivals, name)) value = rank_of(arrivals, value);
        if (one_of(kNames, name)) value = std::min(value, kRandomNames);
        mix.add(value);
    });
    for (RequestId request = 0; request < machine_.request_count(); ++request) {
        const Record& r = records_[request];
        for (const std::int64_t value : {r.request_id,
                                         std::int64_t{r.slot},
                                         r.pages_offered,
                                         r.pages_announced,
                                         r.entries_sent,
                                         r.place.first,
                                         r.place.second,
                                         std::int64_t{r.retractions},
                                         std::int64_t{r.overtaken},
                                         r.hits,
                                         r.tail_tokens,
                                         r.fetched_tokens,
                                         static_cast<std::int64_t>(r.hold),
                                         r.fetches_left,
                                         r.held_from,
                                         r.held_to,
                                         std::int64_t{pool_.find(r.awaited)},
                                         std::int64_t{computing_.find(r.awaited)},
                                         r.awaited_progress,
                                         std::int64_t{r.stalled_rounds},
                                         r.needed}) {
            mix.add(value);
        }
        for (const BlockId block : machine_.tables().of(request)) mix.add(block);
        for (const PageHash& page : r.pages) mix.add(computing_.find(page));
        for (std::size_t pages = 0; r.tail_tokens > 0 && pages <= r.pages.size(); ++pages) {
            const PageHash tail = tail_hash(request, static_cast<std::int64_t>(pages), r.tail_tokens);
            mix.add(pool_.find(tail));
            mix.add(host_.known(tail));
        }
    }
    const auto list = [&mix](const auto& values) {
        mix.add(-1);
        for (const auto value : values) mix.add(value);
    };
    list(running_);
    list(unused_);
    list(free_slots_);
    list(idle_steps_);
    mix.add(-1);
    for (std::size_t at = 0; at < waiting_.size(); ++at) mix.add(waiting_[at]);
    mix.add(doomed_ == kNone || machine_.arrival(doomed_) != doomed_arrival_ ? kNone : doomed_);
    mix.add(protected_);
    waiting_.fingerprint(pool_.version(), departures_, [&](std::int64_t value) { mix.add(value); });
    for (const auto& plan : in_flight_) list(plan->requests);
    pool_.fingerprint([&](std::int64_t value) { mix.add(value); });
    host_.fingerprint([&](std::int64_t value) { mix.add(value); });
    return mix.value();
}

}  // namespace tokenspeed
