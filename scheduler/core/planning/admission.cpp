// Who joins the running requests. The line is in the policy's order; its head runs if its prompt fits beside what
// others were promised. While the head waits for pages from the host, or for another request to compute its prefix,
// those behind it may pass, as long as its blocks and its slot stay its own.
#include <algorithm>
#include <limits>

#include "scheduler/core/contract/errors.h"
#include "scheduler/core/scheduler.h"

namespace tokenspeed {

namespace {

constexpr std::int32_t kLookahead = 16;  // requests that may be passed over in one step
constexpr std::int64_t kNext = std::numeric_limits<std::int64_t>::min();

}  // namespace

void Scheduler::plan_waiting() {
    if (round_.short_of_memory) return;  // whoever runs needs the memory first
    waiting_.settle();
    std::size_t at = 0;
    // Who has just joined and found no memory takes what comes next, so nobody joins behind it.
    while (!round_.short_of_memory && at < waiting_.size() && round_.budget > 0 && at < free_slots_.size() &&
           at < kLookahead) {
        const RequestId request = waiting_[at];
        round_.acting = request;
        const Admission answer = admit(request);
        if (answer == Admission::NoRoom) return;
        if (answer == Admission::PassOver) {
            round_.promised_blocks += records_[request].needed;
            if (records_[request].overtaken >= kMaxOvertakes) return;
            ++at;
            continue;
        }
        waiting_.take(at);
        count_overtaking(request);
        plan_prefill(request, round_.budget);
        promise(request);
    }
}

Scheduler::Admission Scheduler::admit(RequestId request) {
    Record& record = records_[request];
    if (record.hold != Hold::None) {
        if (still_held(record)) return Admission::PassOver;
        record.hold = Hold::None;
    }
    // Who is alone is always admitted: `submit` made sure that it fits the empty pool.
    const bool alone = running_.empty() && round_.promised_blocks == 0;
    const std::int64_t available = machine_.free() + machine_.cached();
    const std::int64_t arrival = machine_.arrival(request);
    const std::int64_t left = available - round_.promised_blocks;
    if (!alone && waiting_.waits_still(request, arrival, pool_.version(), departures_, left)) return Admission::NoRoom;
    const std::int64_t known = machine_.known(request);
    if (!record.hashed && config_.prefix_cache) extend_hashes(record);
    match_prefix(record, known);
    record.needed = (known + config_.block_size - 1) / config_.block_size + 1;
    for (const BlockId block : matched_) {
        if (machine_.block_state(block) == BlockState::Shared) --record.needed;
    }
    if (waits_for_other(request)) return Admission::PassOver;
    if (!alone) {
        const bool fits = record.needed + round_.promised_blocks <= available;
        const bool until_departure = fits && !keeps_protection(request);
        if (!fits || until_departure) {
            waiting_.park({request, arrival, pool_.version(), record.needed, until_departure, departures_});
            return Admission::NoRoom;
        }
    }
    if (fetch_rest(request)) return Admission::PassOver;
    run(request);
    return Admission::Admitted;
}

// Matches what was found and starts to run.
void Scheduler::run(RequestId request) {
    Record& record = records_[request];
    const BlockId tail = find_tail(request);
    for (std::size_t page = 0; page < matched_.size(); ++page) {
        const BlockId block = matched_[page];
        const BlockId parent = matched_[page == 0 ? 0 : page - 1];
        const std::int64_t name = name_of(record.pages[page]);
        if (machine_.block_state(block) == BlockState::Cached) {
            require(machine_.apply_match_cached(request, block, parent, name));
        } else {
            require(machine_.apply_match_shared(request, block, parent, name));
        }
        pool_.matched(block);
    }
    if (tail != kNoBlock) {
        const PageHash hash = pool_.prefix_of(tail);
        require(machine_.apply_match_tail(request, tail, machine_.parent(tail), name_of(hash)));
        pool_.taken_over(tail);
        host_.drop(hash);
        ++totals_.tails_matched;
    }
    require(machine_.apply_admit(request));
    record.hits = static_cast<std::int64_t>(matched_.size());
    record.tail_tokens = 0;
    record.pages_offered = record.pages_announced = record.hits;
    announce(request);
    record.slot = free_slots_.back();
    free_slots_.pop_back();
    const auto older = [this, request](RequestId r) { return machine_.arrival(r) < machine_.arrival(request); };
    const auto place = std::find_if(running_.rbegin(), running_.rend(), older);
    running_.insert(place.base(), request);
    protected_ += is_protected(request) ? 1 : 0;
    const std::int64_t found = machine_.planned(request);
    totals_.prefix_query_tokens += machine_.known(request);
    totals_.prefix_hit_tokens += found;
    const std::int64_t fetched = std::min(record.fetched_tokens, found);
    totals_.host_hit_tokens += fetched;
    if (fetched > 0) emit(EventKind::Fetched, request, fetched);
    emit(EventKind::Admitted, request, found);
}

// Nobody is overtaken for ever: after kMaxOvertakes younger requests the oldest that waits is next.
void Scheduler::count_overtaking(RequestId request) {
    if (waiting_.empty()) return;
    const RequestId oldest = waiting_.oldest();
    if (machine_.arrival(oldest) >= machine_.arrival(request)) return;
    Record& record = records_[oldest];
    if (++record.overtaken >= kMaxOvertakes && record.place.first != kNext) {
        record.place = {kNext, kNext};
        waiting_.move(oldest, record.place);
    }
}

// Blocks that the request holds when it has all its output.
std::int64_t Scheduler::whole_need(RequestId request) const {
    return (machine_.limit(request) - 1 + config_.block_size - 1) / config_.block_size;
}

bool Scheduler::is_protected(RequestId request) const {
    return records_[request].retractions >= config_.max_retractions;
}

// A request that was retracted as often as may be is admitted only if all that it can ever need fits beside all that
// the older requests can ever need, and later no older one joins that would break this. So when an older one needs a
// block and nobody younger is left to give one, some block is not held by anybody, and nobody has to retract it again.
// Joining requests never make it true again, only leaving ones.
bool Scheduler::keeps_protection(RequestId request) const {
    if (protected_ == 0 && !is_protected(request)) return true;
    std::int64_t total = 0;
    bool joined = false;
    const auto fits = [&](RequestId r) {
        total += whole_need(r);
        return !is_protected(r) || total <= config_.num_blocks;
    };
    for (const RequestId r : running_) {
        if (!joined && machine_.arrival(r) > machine_.arrival(request)) {
            joined = true;
            if (!fits(request)) return false;
        }
        if (!fits(r)) return false;
    }
    return joined || fits(request);
}

}  // namespace tokenspeed
