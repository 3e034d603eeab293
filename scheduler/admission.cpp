// Who joins the running requests. The line is in the policy's order; its head runs if its prompt fits beside what
// others were promised. While the head waits for pages from the host, or for another request to compute its prefix,
// those behind it may pass, as long as its blocks and its slot stay its own.
#include <algorithm>
#include <limits>

#include "errors.h"
#include "scheduler.h"

namespace tokenspeed {

namespace {

constexpr std::int32_t kLookahead = 16;       // requests that may be passed over in one step
constexpr std::int32_t kPatience = 8;         // rounds in all that a request waits for a prefix that does not advance
constexpr std::size_t kPrefetchDistance = 8;  // look-ups that are on their way to the cache at once
constexpr std::int64_t kNext = std::numeric_limits<std::int64_t>::min();

}  // namespace

void Scheduler::enter_line(RequestId request) {
    const auto before = [this](RequestId a, RequestId b) {
        return std::pair(records_[a].place, machine_.arrival(a)) < std::pair(records_[b].place, machine_.arrival(b));
    };
    const auto at = std::upper_bound(waiting_.begin(), waiting_.end(), request, before);
    const bool behind = at == waiting_.begin() || machine_.arrival(*(at - 1)) < machine_.arrival(request);
    const bool ahead = at == waiting_.end() || machine_.arrival(request) < machine_.arrival(*at);
    waiting_by_arrival_ = waiting_.empty() || (waiting_by_arrival_ && behind && ahead);
    waiting_.insert(at, request);
}

void Scheduler::plan_waiting() {
    if (short_) return;  // whoever runs needs the memory first
    if (resort_) {
        std::stable_sort(waiting_.begin(), waiting_.end(),
                         [this](RequestId a, RequestId b) { return records_[a].place < records_[b].place; });
        resort_ = false;
    }
    std::size_t at = 0;
    while (at < waiting_.size() && budget_ > 0 && at < free_slots_.size() && at < kLookahead) {
        const RequestId request = waiting_[at];
        const Admission answer = admit(request);
        if (answer == Admission::NoRoom) return;
        if (answer == Admission::PassOver) {
            promised_blocks_ += records_[request].needed;
            if (records_[request].overtaken >= kMaxOvertakes) return;
            ++at;
            continue;
        }
        waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(at));
        count_overtaking(request);
        plan_prefill(request, budget_);
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
    const bool alone = running_.empty() && promised_blocks_ == 0;
    const std::int64_t available = machine_.free() + machine_.cached();
    const std::int64_t arrival = machine_.arrival(request);
    if (!alone && parked_.request == request && parked_.arrival == arrival && parked_.version == pool_.version() &&
        parked_.blocks_needed + promised_blocks_ > available) {
        return Admission::NoRoom;
    }
    const std::int64_t known = machine_.known(request);
    if (!record.hashed && config_.prefix_cache) extend_hashes(record);
    match_prefix(record, known);
    record.needed = (known + config_.block_size - 1) / config_.block_size + 1;
    for (const BlockId block : matched_) {
        if (machine_.block_state(block) == BlockState::Shared) --record.needed;
    }
    if (waits_for_other(request)) return Admission::PassOver;
    if (!alone && (record.needed + promised_blocks_ > available || !keeps_protection(request))) {
        parked_ = {request, arrival, pool_.version(), record.needed};
        return Admission::NoRoom;
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
    const auto older = [this](RequestId a, RequestId b) { return machine_.arrival(a) < machine_.arrival(b); };
    const RequestId oldest =
        waiting_by_arrival_ ? waiting_.front() : *std::min_element(waiting_.begin(), waiting_.end(), older);
    if (machine_.arrival(oldest) >= machine_.arrival(request)) return;
    Record& record = records_[oldest];
    if (++record.overtaken >= kMaxOvertakes && record.place.first != kNext) {
        record.place = {kNext, kNext};
        waiting_by_arrival_ = false;
        resort_ = true;
    }
}

bool Scheduler::still_held(Record& record) const {
    const auto on_its_way = [this](const PageHash& prefix) {
        const BlockId block = pool_.find(prefix);
        return block != kNoBlock && machine_.block_state(block) == BlockState::Fetching;
    };
    if (record.hold == Hold::Fetch) {
        while (record.held_from < record.held_to && !on_its_way(record.pages[record.held_from])) ++record.held_from;
        return record.held_from < record.held_to || on_its_way(record.awaited);
    }
    const RequestId other = computing_.find(record.awaited);
    if (other == kNone) return false;
    const std::int64_t progress = machine_.planned(other) + machine_.computed(other);
    if (progress == record.awaited_progress && ++record.stalled_rounds > kPatience) return false;
    record.awaited_progress = progress;
    return true;
}

// Whole pages of the first `known` tokens that may be found; the last known token is always computed anew.
std::int64_t Scheduler::whole_pages(const Record& record, std::int64_t known) const {
    return std::min(static_cast<std::int64_t>(record.pages.size()), (known - 1) / config_.block_size);
}

// Finds the published blocks of the request's prefix, from the start.
void Scheduler::match_prefix(const Record& record, std::int64_t known) {
    const auto most = static_cast<std::size_t>(whole_pages(record, known));
    matched_.clear();
    while (matched_.size() < most) {
        pool_.prefetch(record.pages[std::min(matched_.size() + kPrefetchDistance, most - 1)]);
        const BlockId block = pool_.find(record.pages[matched_.size()]);
        if (block == kNoBlock || machine_.block_state(block) == BlockState::Fetching) return;
        // Hashes that a driver made (submit_hashed) may name a page without what is in front of it.
        if (machine_.parent(block) != (matched_.empty() ? block : matched_.back())) return;
        matched_.push_back(block);
    }
}

// The partial page that the request left behind when it was retracted, if it can be taken over now.
BlockId Scheduler::find_tail(RequestId request) const {
    const Record& record = records_[request];
    if (record.tail_tokens == 0) return kNoBlock;
    const auto pages = static_cast<std::int64_t>(matched_.size());
    if (pages * config_.block_size + record.tail_tokens >= machine_.known(request)) return kNoBlock;
    const BlockId block = pool_.find(tail_hash(request, pages, record.tail_tokens));
    if (block == kNoBlock || machine_.block_state(block) != BlockState::Cached) return kNoBlock;
    const bool quiet = machine_.stamp(block) <= machine_.landed() && machine_.copies(block) == 0;
    const bool follows = machine_.parent(block) == (matched_.empty() ? block : matched_.back());
    return quiet && follows ? block : kNoBlock;
}

// Names the first `tokens` tokens behind whole pages. Of a request that is known by hashes, nobody else knows them.
PageHash Scheduler::tail_hash(RequestId request, std::int64_t pages, std::int64_t tokens) const {
    const Record& record = records_[request];
    const PageHash prefix = pages == 0 ? PageHasher::kEmpty : record.pages[pages - 1];
    if (!record.hashed) {
        return hasher_.tail(prefix, {record.tokens.data() + pages * config_.block_size, static_cast<std::size_t>(tokens)});
    }
    const std::uint64_t arrival = static_cast<std::uint64_t>(machine_.arrival(request));
    const std::int32_t words[3] = {static_cast<std::int32_t>(arrival), static_cast<std::int32_t>(arrival >> 32),
                                   static_cast<std::int32_t>(tokens)};
    return hasher_.tail(prefix, words);
}

// Whether the pages behind those that were found are on their way from the host, or are being computed by a request
// that runs and are worth waiting for.
bool Scheduler::waits_for_other(RequestId request) {
    Record& record = records_[request];
    const auto found = static_cast<std::int64_t>(matched_.size());
    const std::int64_t most = whole_pages(record, machine_.known(request));
    std::int64_t end = found;
    while (end < most) {
        const BlockId block = pool_.find(record.pages[end]);
        if (block == kNoBlock || machine_.block_state(block) != BlockState::Fetching) break;
        ++end;
    }
    if (end > found) {
        record.hold = Hold::Fetch;
        record.held_from = found;
        record.held_to = end;
        record.awaited = {};
        return true;
    }
    RequestId other = kNone;
    while (end < most) {
        const RequestId computes = computing_.find(record.pages[end]);
        if (computes == kNone) break;
        other = computes;
        ++end;
    }
    if (other == kNone || record.stalled_rounds > kPatience) return false;
    const std::int64_t remaining = end * config_.block_size - machine_.computed(other);
    if (!prefers_waiting((end - found) * config_.block_size, remaining)) return false;
    record.hold = Hold::Prefix;
    record.awaited = record.pages[end - 1];
    record.awaited_progress = machine_.planned(other) + machine_.computed(other);
    return true;
}

// Twice what its prefix has, so that a wait for pages that are evicted again and again ends.
std::int64_t Scheduler::fetch_limit(RequestId request) const {
    return 2 * (machine_.known(request) / config_.block_size + 1);
}

// Starts to copy the pages behind those that were found from the host, if that is preferred to computing them: as many
// as there are blocks for, and the others when these have come.
bool Scheduler::fetch_rest(RequestId request) {
    Record& record = records_[request];
    if (!host_.enabled() || record.fetches_left <= 0) return false;
    const auto found = static_cast<std::int64_t>(matched_.size());
    const std::int64_t known = machine_.known(request);
    const std::int64_t most = whole_pages(record, known);
    std::int64_t end = found;
    while (end < most && host_.find(record.pages[end]) != kNone && pool_.find(record.pages[end]) == kNoBlock) ++end;
    PageHash tail;
    HostId tail_page = kNone;
    if (record.tail_tokens > 0 && end * config_.block_size + record.tail_tokens < known) {
        tail = tail_hash(request, end, record.tail_tokens);
        if (pool_.find(tail) == kNoBlock) tail_page = host_.find(tail);
    }
    const std::int64_t tokens = (end - found) * config_.block_size + (tail_page == kNone ? 0 : record.tail_tokens);
    if (tokens == 0 || !prefers_fetch(found * config_.block_size, tokens)) return false;
    spills_left_ = std::max(spills_left_, end - found);
    BlockId parent = matched_.empty() ? kNoBlock : matched_.back();
    std::int64_t at = found;
    for (; at < end; ++at) {
        const BlockId block = fetch(host_.find(record.pages[at]), record.pages[at], parent);
        if (block == kNoBlock) break;
        parent = block;
    }
    const bool with_tail = at == end && tail_page != kNone && fetch(tail_page, tail, parent) != kNoBlock;
    if (at == found && !with_tail) {
        --record.fetches_left;  // so that this ends
        const bool something_will_happen = open_ != nullptr || !in_flight_.empty() || host_.in_flight() > 0;
        return something_will_happen && memory_is_coming();
    }
    record.hold = Hold::Fetch;
    record.held_from = found;
    record.held_to = at;
    record.awaited = with_tail ? tail : PageHash{};
    record.fetches_left -= at - found + (with_tail ? 1 : 0);
    record.fetched_tokens += (at - found) * config_.block_size + (with_tail ? record.tail_tokens : 0);
    record.needed = std::max<std::int64_t>(record.needed - (at - found) - (with_tail ? 1 : 0), 0);
    return true;
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

// The request will compute the pages of its known tokens that it did not find.
void Scheduler::announce(RequestId request) {
    Record& record = records_[request];
    const auto whole = machine_.known(request) / config_.block_size;
    const auto end = std::min(static_cast<std::int64_t>(record.pages.size()), whole);
    for (; record.pages_announced < end; ++record.pages_announced) {
        computing_.insert(record.pages[record.pages_announced], request);
    }
}

// Pages before `end` are published now, or will not be computed by this request after all.
void Scheduler::withdraw(Record& record, std::int64_t end) {
    const RequestId self = static_cast<RequestId>(&record - records_.data());
    for (std::int64_t page = record.pages_offered; page < std::min(end, record.pages_announced); ++page) {
        if (computing_.find(record.pages[page]) == self) computing_.erase(record.pages[page]);
    }
}

}  // namespace tokenspeed
