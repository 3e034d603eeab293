// Who makes room when memory is short: cached pages first, then a younger running request, chosen by what that costs.
#include <algorithm>

#include "scheduler/core/contract/errors.h"
#include "scheduler/core/scheduler.h"

namespace tokenspeed {

// One more block at the end of the request's table. If there is none and none will come by itself, a younger request is
// retracted; while a step in flight still has that one, it gets no more rows, so that it can be retracted after the
// step.
bool Scheduler::grow(RequestId request) {
    for (;;) {
        const BlockId block = take_block(true);
        if (block != kNoBlock) {
            require(machine_.apply_allocate(request, block));
            return true;
        }
        round_.short_of_memory = true;
        if (memory_is_coming()) return false;
        const RequestId victim = choose_victim(request);
        if (victim == kNone) return false;
        if (machine_.pending(victim) > 0) {
            doomed_ = victim;
            doomed_arrival_ = machine_.arrival(victim);
            return false;
        }
        retract(victim, request);
    }
}

// A free block, evicting a page other than `kept`, or kNoBlock. Pages that are worth it are copied to the host first,
// so their blocks come later; meanwhile a page that is there already, or not worth it, makes room.
BlockId Scheduler::take_block(bool urgent, BlockId kept) {
    for (;;) {
        const BlockId block = pool_.free_block();
        if (block != kNoBlock) return block;
        const BlockId candidate = pool_.candidate();
        if (candidate == kNoBlock || candidate == kept || machine_.stamp(candidate) > machine_.landed())
            return kNoBlock;
        // With no copy under way that could end, there is no host page to wait for.
        const bool hopeless = !can_spill() && host_.in_flight() == 0;
        if (hopeless || !worth_spilling(candidate, urgent)) {
            evict(candidate);
            return candidate;
        }
        // With it the pages in front of it, which come next.
        for (BlockId at = candidate; round_.spills_left > 0 && can_spill(); --round_.spills_left) {
            const BlockId parent = machine_.parent(at);
            spill(at);
            if (parent == at || machine_.block_state(parent) != BlockState::Cached) break;
            if (machine_.copies(parent) > 0 || !worth_spilling(parent, urgent)) break;
            at = parent;
        }
        if (machine_.copies(candidate) == 0) return kNoBlock;
    }
}

// Whether a block will be free when a copy or a step in flight has ended, beside those that others wait for already.
// With nothing in flight all cached blocks can be evicted and none is in limbo, so this wait always ends.
bool Scheduler::memory_is_coming() {
    if (machine_.cached() + machine_.fetching() + pool_.limbo_count() <= round_.unmet) return false;
    ++round_.unmet;
    return true;
}

// The oldest running request is in no step and has no room for its next token. Then the contract that liveness needs
// restricts the others (spec/claims/liveness_memory.py): no host page is dropped, so that copies to the host come to
// an end, and somebody drains, whomever the policy would rather retract.
bool Scheduler::oldest_waits() const {
    if (running_.empty()) return false;
    const RequestId oldest = running_.front();
    return machine_.pending(oldest) == 0 && machine_.planned(oldest) == machine_.capacity(oldest) &&
           machine_.known(oldest) < machine_.limit(oldest);
}

// The youngest that holds blocks gets no row while the oldest waits.
bool Scheduler::must_give_way(RequestId request) const {
    if (request == running_.front() || !oldest_waits()) return false;
    const auto youngest =
        std::find_if(running_.rbegin(), running_.rend(), [this](RequestId r) { return machine_.blocks(r) > 0; });
    return youngest != running_.rend() && *youngest == request;
}

// The cheapest of the younger running requests that may be retracted. One that is being drained stays the choice.
RequestId Scheduler::choose_victim(RequestId beneficiary) {
    RequestId best = kNone;
    double least = 0;
    for (auto at = running_.rbegin(); at != running_.rend(); ++at) {
        const RequestId request = *at;
        if (machine_.arrival(request) <= machine_.arrival(beneficiary)) break;
        if (machine_.blocks(request) == 0 || is_protected(request)) continue;
        if (machine_.known(request) >= machine_.limit(request)) continue;
        if (request == doomed_ && machine_.arrival(request) == doomed_arrival_) return request;
        const double cost = victim_cost(request);
        if (best == kNone || cost < least) {
            best = request;
            least = cost;
        }
    }
    return best;
}

void Scheduler::retract(RequestId victim, RequestId beneficiary) {
    const std::int64_t dropped = machine_.planned(victim);
    round_.decodes_to_come -= machine_.request_state(victim) == RequestState::Decode ? 1 : 0;
    require(machine_.apply_retract(victim, beneficiary));
    stop_running(victim);
    Record& record = records_[victim];
    release_blocks(victim);
    require(machine_.apply_requeue(victim));
    free_slots_.push_back(record.slot);
    record.slot = -1;
    record.pages_offered = record.pages_announced = 0;
    record.entries_sent = 0;
    record.fetches_left = fetch_limit(victim);
    record.fetched_tokens = 0;
    record.stalled_rounds = 0;
    ++record.retractions;
    if (victim == doomed_) doomed_ = kNone;
    waiting_.enter(victim, record.place, machine_.arrival(victim));
    ++totals_.retractions;
    totals_.most_retractions = std::max<std::int64_t>(totals_.most_retractions, record.retractions);
    emit(EventKind::Retracted, victim, dropped);
}

void Scheduler::stop_running(RequestId request) {
    const auto at = std::find(running_.begin(), running_.end(), request);
    if (at == running_.end()) return;
    running_.erase(at);
    ++departures_;
    protected_ -= is_protected(request) ? 1 : 0;
}

// From the tail to the front, so that of a cached prefix the longest part is the first to be evicted.
void Scheduler::release_blocks(RequestId request) {
    withdraw(records_[request], records_[request].pages_announced);
    const auto& table = machine_.tables().of(request);
    while (!table.empty()) {
        const BlockId block = table.back();
        if (machine_.block_state(block) == BlockState::Owned) {
            if (keep_tail(request, block)) continue;
            if (machine_.last_step(request) <= machine_.landed()) {
                require(machine_.apply_release_owned(request, block));
                pool_.freed(block);
            } else {
                require(machine_.apply_release_to_limbo(request, block));
                pool_.limbo(block);
            }
        } else if (machine_.refs(block) > 1) {
            require(machine_.apply_release_shared(request, block));
        } else {
            const std::int64_t kept = retention(request, block);
            require(machine_.apply_release_to_cache(request, block));
            pool_.cached(block, kept);
        }
    }
}

// The last, partial page of a request that is retracted stays in the cache for it.
bool Scheduler::keep_tail(RequestId request, BlockId block) {
    Record& record = records_[request];
    if (machine_.request_state(request) != RequestState::Retracting || !config_.prefix_cache) return false;
    const std::int64_t tokens = machine_.computed(request) - machine_.position(block);
    if (tokens <= 0 || tokens >= config_.block_size) return false;
    const std::int64_t pages = machine_.position(block) / config_.block_size;
    if (pages > static_cast<std::int64_t>(record.pages.size())) return false;
    const auto& table = machine_.tables().of(request);
    const BlockId parent = pages == 0 ? block : table[static_cast<std::size_t>(pages) - 1];
    if (parent != block && machine_.block_state(parent) != BlockState::Shared) return false;
    const PageHash hash = tail_hash(request, pages, tokens);
    if (pool_.find(hash) != kNoBlock) return false;
    const std::int64_t kept = retention(request, block);
    require(machine_.apply_keep_tail(request, block, parent, name_of(hash)));
    pool_.index(block, hash);
    pool_.cached(block, kept);
    record.tail_tokens = tokens;
    ++totals_.tails_kept;
    return true;
}

void Scheduler::evict(BlockId block) {
    const std::int64_t page = machine_.position(block) / config_.block_size;
    const bool told = pool_.indexed(block) && machine_.fill(block) == config_.block_size;
    pool_.evict(block);
    if (told) emit_page(EventKind::KvRemoved, page, pool_.prefix_of(block));
}

}  // namespace tokenspeed
