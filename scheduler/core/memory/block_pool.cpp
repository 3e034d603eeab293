#include "scheduler/core/memory/block_pool.h"

#include <algorithm>
#include <string>

#include "scheduler/core/contract/errors.h"

namespace tokenspeed {

BlockPool::BlockPool(Machine& machine, std::int32_t num_blocks)
    : machine_(machine),
      num_blocks_(num_blocks),
      links_(static_cast<std::size_t>(num_blocks + kClasses)),
      rank_(static_cast<std::size_t>(num_blocks)),
      retention_(static_cast<std::size_t>(num_blocks)),
      uses_(static_cast<std::size_t>(num_blocks)),
      by_prefix_(static_cast<std::size_t>(num_blocks)),
      prefix_of_(static_cast<std::size_t>(num_blocks)) {
    free_.reserve(static_cast<std::size_t>(num_blocks));
    for (BlockId block = num_blocks - 1; block >= 0; --block) free_.push_back(block);
    for (BlockId at = 0; at < num_blocks + kClasses; ++at) links_[at] = {at, at};
    for (std::int32_t c = 0; c < kClasses; ++c) {
        bonus_[c] = static_cast<std::uint64_t>(kRetention[c] * static_cast<double>(num_blocks));
    }
}

BlockId BlockPool::free_block() {
    if (free_.empty()) return kNoBlock;
    const BlockId block = free_.back();
    free_.pop_back();
    return block;
}

BlockId BlockPool::candidate() {
    for (;;) {
        BlockId best = kNoBlock;
        for (std::int32_t c = 0; c < kClasses; ++c) {
            const BlockId head = links_[sentinel(c)].next;
            if (head != sentinel(c) && (best == kNoBlock || rank_[head] < rank_[best])) best = head;
        }
        if (best == kNoBlock || (machine_.children(best) == 0 && machine_.copies(best) == 0)) return best;
        set_aside(best);
    }
}

void BlockPool::evict(BlockId block) {
    const BlockId parent = machine_.parent(block);
    require(machine_.apply_evict(block, parent));
    if (linked(block)) unlink(block);
    if (indexed(block)) by_prefix_.erase(prefix_of_[block]);
    ++evictions_;
    if (parent != block && !linked(parent) && machine_.block_state(parent) == BlockState::Cached &&
        machine_.children(parent) == 0 && machine_.copies(parent) == 0) {
        link_first(parent);
    }
}

void BlockPool::cached(BlockId block, std::int64_t retention) {
    const auto c = static_cast<std::uint8_t>(retention);
    retention_[block] = c;
    rank_[block] = released_++ + bonus_[c];
    if (machine_.copies(block) == 0) link_between(links_[sentinel(c)].previous, block, sentinel(c));
}

void BlockPool::matched(BlockId block) {
    if (linked(block)) unlink(block);
    if (uses_[block] < UINT8_MAX) ++uses_[block];
}

void BlockPool::taken_over(BlockId block) {
    if (linked(block)) unlink(block);
    if (indexed(block)) by_prefix_.erase(prefix_of_[block]);
}

void BlockPool::copied(BlockId block) {
    if (machine_.block_state(block) != BlockState::Cached || machine_.copies(block) > 0 || linked(block)) return;
    // What is copied was near the head, so this walk is short.
    const BlockId end = sentinel(retention_[block]);
    BlockId next = links_[end].next;
    while (next != end && rank_[next] < rank_[block]) next = links_[next].next;
    link_between(links_[next].previous, block, next);
}

void BlockPool::unlink(BlockId block) {
    const Link link = links_[block];
    links_[link.previous].next = link.next;
    links_[link.next].previous = link.previous;
    links_[block] = {block, block};
}

void BlockPool::set_aside(BlockId block) {
    if (linked(block)) unlink(block);
}

void BlockPool::link_between(BlockId previous, BlockId block, BlockId next) {
    links_[block] = {previous, next};
    links_[previous].next = block;
    links_[next].previous = block;
}

void BlockPool::link_first(BlockId block) {
    const BlockId end = sentinel(retention_[block]);
    link_between(end, block, links_[end].next);
}

void BlockPool::reap() {
    while (!limbo_.empty() && machine_.stamp(limbo_.front()) <= machine_.landed()) {
        require(machine_.apply_reap(limbo_.front()));
        free_.push_back(limbo_.front());
        limbo_.pop_front();
    }
}

void BlockPool::index(BlockId block, const PageHash& prefix, std::uint8_t uses) {
    by_prefix_.insert(prefix, block);
    prefix_of_[block] = prefix;
    uses_[block] = uses;
    ++version_;
}

void BlockPool::restore() {
    free_.clear();
    limbo_.clear();
    for (BlockId block = num_blocks_ - 1; block >= 0; --block) {
        const BlockState state = machine_.block_state(block);
        if (state == BlockState::Free) free_.push_back(block);
        if (state == BlockState::Limbo) limbo_.push_back(block);
        const bool published =
            state == BlockState::Shared || state == BlockState::Cached || state == BlockState::Fetching;
        if (!published && indexed(block)) by_prefix_.erase(prefix_of_[block]);
        const bool evictable =
            state == BlockState::Cached && machine_.children(block) == 0 && machine_.copies(block) == 0;
        if (linked(block) && (state != BlockState::Cached || machine_.copies(block) > 0)) unlink(block);
        if (!linked(block) && evictable) link_first(block);
    }
    std::stable_sort(limbo_.begin(), limbo_.end(),
                     [this](BlockId a, BlockId b) { return machine_.stamp(a) < machine_.stamp(b); });
    ++version_;
}

void BlockPool::check() const {
    const auto expect = [](bool condition, const std::string& what) {
        if (!condition) throw InvariantViolated("block pool: " + what);
    };
    for (const BlockId block : free_) {
        expect(machine_.block_state(block) == BlockState::Free,
               "block " + std::to_string(block) + " is listed as free but is not");
    }
    expect(static_cast<std::int64_t>(free_.size()) == machine_.free(), "the free list has not all free blocks");
    std::int64_t cached = 0;
    for (std::int32_t c = 0; c < kClasses; ++c) {
        for (BlockId block = links_[sentinel(c)].next; block != sentinel(c); block = links_[block].next) {
            expect(machine_.block_state(block) == BlockState::Cached,
                   "block " + std::to_string(block) + " is listed as cached but is not");
            ++cached;
        }
    }
    for (BlockId block = 0; block < num_blocks_; ++block) {
        if (machine_.block_state(block) != BlockState::Cached || linked(block)) continue;
        expect(machine_.children(block) > 0 || machine_.copies(block) > 0,
               "block " + std::to_string(block) + " is set aside but is a leaf that no copy touches");
        ++cached;
    }
    expect(cached == machine_.cached(), "the cache lists have not all cached blocks");
    for (const BlockId block : limbo_) {
        expect(machine_.block_state(block) == BlockState::Limbo,
               "block " + std::to_string(block) + " is listed in limbo but is not");
    }
    by_prefix_.for_each([&](const PageHash& prefix, BlockId block) {
        const BlockState state = machine_.block_state(block);
        expect(state == BlockState::Shared || state == BlockState::Cached || state == BlockState::Fetching,
               "block " + std::to_string(block) + " is indexed but not published");
        expect(machine_.key(block) == name_of(prefix), "block " + std::to_string(block) + " has another name");
        expect(prefix_of_[block] == prefix, "block " + std::to_string(block) + " is indexed under another prefix");
    });
}

}  // namespace tokenspeed
