// What is copied to the host and back, beside the steps.
#include <algorithm>
#include <string>

#include "scheduler/core/contract/errors.h"
#include "scheduler/core/scheduler.h"

namespace tokenspeed {

bool Scheduler::worth_spilling(BlockId block, bool urgent) {
    if (!host_.enabled() || !pool_.indexed(block)) return false;
    return !host_.has(pool_.prefix_of(block)) && prefers_spill(block, urgent);
}

void Scheduler::spill(BlockId block) {
    if (const HostId dropped = host_.next_dropped(); dropped != kNone) {
        ++totals_.host_evictions;
        if (machine_.host_fill(dropped) == config_.block_size) {
            emit_page(EventKind::HostRemoved, machine_.host_position(dropped) / config_.block_size,
                      host_.prefix_of(dropped));
        }
    }
    const HostId page = host_.take_page();
    host_.spill(block, page, pool_.prefix_of(block), pool_.uses(block));
    pool_.copying(block);
}

// Copies pages that will be evicted next to the host, as many as may be needed before the copies have ended.
void Scheduler::spill_ahead() {
    const std::int64_t most = config_.spill_ahead() - pool_.free_count() - host_.in_flight();
    pool_.each_candidate(most, [this](BlockId block) {
        if (can_spill() && machine_.copies(block) == 0 && worth_spilling(block, false)) spill(block);
    });
}

// Copies a host page into a block behind `parent` (kNoBlock: at the start of a text). Returns the block, or kNoBlock if
// no copy can begin now.
BlockId Scheduler::fetch(HostId page, const PageHash& prefix, BlockId parent) {
    if (page == kNone || !host_.can_fetch()) return kNoBlock;
    const BlockId block = take_block(false, parent);
    if (block == kNoBlock) return kNoBlock;
    if (!host_.can_fetch() || host_.find(prefix) != page) {
        pool_.freed(block);  // making room took the last copy record, or the page itself
        return kNoBlock;
    }
    host_.fetch(page, block, parent == kNoBlock ? block : parent);
    pool_.index(block, prefix, host_.uses(page));
    return block;
}

void Scheduler::transfer_done(std::span<const std::int64_t> copy_ids) {
    refuse_while_deciding("transfer_done");
    std::vector<std::int64_t> sorted(copy_ids.begin(), copy_ids.end());
    std::sort(sorted.begin(), sorted.end());
    if (const auto twice = std::adjacent_find(sorted.begin(), sorted.end()); twice != sorted.end()) {
        throw UnknownCopy("copy " + std::to_string(*twice) + " is given twice");
    }
    for (const std::int64_t id : copy_ids) {
        if (host_.record_of(id) == kNone) {
            throw UnknownCopy("copy " + std::to_string(id) + " is not under way: never started, or already done");
        }
    }
    constexpr std::int64_t kMostRecent = static_cast<std::int64_t>(kRetention.size()) - 1;
    for (const std::int64_t id : copy_ids) {
        const HostTier::Ended ended = host_.end(host_.record_of(id));
        const std::int64_t page = machine_.host_position(ended.page) / config_.block_size;
        const bool whole = machine_.host_fill(ended.page) == config_.block_size;
        if (ended.kind == CopyKind::Fetch) {
            pool_.cached(ended.block, kMostRecent);  // somebody waits for it
            if (whole) emit_page(EventKind::KvStored, page, ended.prefix);
        } else {
            pool_.copied(ended.block);
            if (whole) emit_page(EventKind::HostStored, page, ended.prefix);
        }
    }
}

}  // namespace tokenspeed
