// Where free, cached and limbo blocks wait, and which published block holds which prefix. Proposes; the machine
// decides.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <vector>

#include "scheduler/core/contract/policy.h"
#include "scheduler/core/memory/page_hash.h"
#include "scheduler/core/memory/prefix_table.h"
#include "scheduler/generated/machine.h"

namespace tokenspeed {

class BlockPool {
  public:
    BlockPool(Machine& machine, std::int32_t num_blocks);

    // A free block, or kNoBlock.
    BlockId free_block();
    // The cached leaf that is worth least and that no copy touches, or kNoBlock. Steps in flight may still read it.
    BlockId candidate();
    // Evicts a candidate; it is free now, but not on the free list.
    void evict(BlockId block);
    // Calls visit(block) for cached blocks about in order of eviction, at most `most` of them.
    template <class Visit>
    void each_candidate(std::int64_t most, Visit&& visit) const;

    // The machine has freed, cached or put the block in limbo.
    void freed(BlockId block) { free_.push_back(block); }
    void cached(BlockId block, std::int64_t retention);
    void limbo(BlockId block) { limbo_.push_back(block); }
    // The machine has taken the block out of the cache, or out of the tree, because a request matched it.
    void matched(BlockId block);
    void taken_over(BlockId block);
    // A copy from the block has begun; it cannot be evicted.
    void copying(BlockId block) { set_aside(block); }
    // It has ended: if nobody holds the block, it takes its place among the candidates again.
    void copied(BlockId block);
    // Frees every block in limbo whose last step has landed.
    void reap();

    // The published block that ends this prefix, which may still be on its way from the host, or kNoBlock.
    BlockId find(const PageHash& prefix) const { return by_prefix_.find(prefix); }
    // Asks the cache for what `find` will read.
    void prefetch(const PageHash& prefix) const { by_prefix_.prefetch(prefix); }
    // The machine has published the block, or begun to fetch it, under this prefix, which no other block has.
    void index(BlockId block, const PageHash& prefix, std::uint8_t uses = 0);
    const PageHash& prefix_of(BlockId block) const { return prefix_of_[block]; }
    bool indexed(BlockId block) const { return find(prefix_of_[block]) == block; }
    // How often requests have found the block since it was published, up to 255.
    std::uint8_t uses(BlockId block) const { return uses_[block]; }

    std::int64_t free_count() const { return static_cast<std::int64_t>(free_.size()); }
    std::int64_t limbo_count() const { return static_cast<std::int64_t>(limbo_.size()); }
    std::uint64_t evictions() const { return evictions_; }
    // Changes whenever a prefix is added; what was not found before need not be looked for until then.
    std::uint64_t version() const { return version_; }

    // Calls add(value) for what decides which blocks are taken next. Pages whose rank lies so far back that no page to
    // come can be ahead of them differ only in their order.
    template <class Add>
    void fingerprint(Add&& add) const;
    // Makes all lists again from the machine's state; of the order of eviction, what is in the lists is kept.
    void restore();
    // Throws InvariantViolated if a list disagrees with the machine.
    void check() const;

  private:
    static constexpr std::int32_t kClasses = kRetention.size();

    bool linked(BlockId block) const { return links_[block].next != block; }
    void unlink(BlockId block);
    void set_aside(BlockId block);
    void link_between(BlockId previous, BlockId block, BlockId next);
    void link_first(BlockId block);
    BlockId sentinel(std::int32_t retention) const { return num_blocks_ + retention; }

    Machine& machine_;
    BlockId num_blocks_;
    std::vector<BlockId> free_;
    std::deque<BlockId> limbo_;
    // Cached blocks, one list for each retention class from least (head) to most recently released; the links behind
    // those of the blocks are both ends of the lists. A block that comes to the head while others continue it, or that
    // is being copied, is set aside, linked to itself, and comes back when that is over.
    struct Link {
        BlockId previous;
        BlockId next;
    };
    std::vector<Link> links_;
    std::vector<std::uint64_t> rank_;  // evicted in this order: blocks released before it, plus what its class adds
    std::vector<std::uint8_t> retention_;
    std::vector<std::uint8_t> uses_;
    std::array<std::uint64_t, kClasses> bonus_{};
    std::uint64_t released_ = 0;
    PrefixTable by_prefix_;
    std::vector<PageHash> prefix_of_;
    std::uint64_t evictions_ = 0;
    std::uint64_t version_ = 0;
};

template <class Add>
void BlockPool::fingerprint(Add&& add) const {
    for (const BlockId block : free_) add(block);
    add(-1);
    for (const BlockId block : limbo_) add(block);
    add(-1);
    const auto furthest = static_cast<std::int64_t>(bonus_.back()) + 1;
    for (BlockId block = 0; block < num_blocks_; ++block) {
        if (machine_.block_state(block) != BlockState::Cached) continue;
        add(linked(block) ? 1 : 0);
        add(retention_[block]);
        add(uses_[block]);
        add(std::max(static_cast<std::int64_t>(rank_[block]) - static_cast<std::int64_t>(released_), -furthest));
        for (BlockId other = 0; other < block; ++other) {
            if (machine_.block_state(other) == BlockState::Cached) add(rank_[other] < rank_[block] ? 1 : 0);
        }
    }
    for (std::int32_t c = 0; c < kClasses; ++c) {
        for (BlockId block = links_[sentinel(c)].next; block != sentinel(c); block = links_[block].next) add(block);
        add(-1);
    }
}

template <class Visit>
void BlockPool::each_candidate(std::int64_t most, Visit&& visit) const {
    std::array<BlockId, kClasses> at;
    for (std::int32_t c = 0; c < kClasses; ++c) at[c] = links_[sentinel(c)].next;
    while (most-- > 0) {
        std::int32_t best = -1;
        for (std::int32_t c = 0; c < kClasses; ++c) {
            if (at[c] != sentinel(c) && (best < 0 || rank_[at[c]] < rank_[at[best]])) best = c;
        }
        if (best < 0) return;
        const BlockId block = at[best];
        at[best] = links_[block].next;  // before the visit, which may set the block aside
        visit(block);
        // Blocks that were set aside because this one continues them are next when it has gone.
        for (BlockId child = block, up = machine_.parent(block);
             up != child && most > 0 && !linked(up) && machine_.block_state(up) == BlockState::Cached;
             child = up, up = machine_.parent(up), --most) {
            visit(up);
        }
    }
}

}  // namespace tokenspeed
