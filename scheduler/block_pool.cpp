#include "block_pool.h"

#include <string>

#include "errors.h"

namespace tokenspeed {

BlockPool::BlockPool(Machine& machine, std::int32_t num_blocks)
    : machine_(machine),
      links_(static_cast<std::size_t>(num_blocks) + 1),
      by_prefix_(static_cast<std::size_t>(num_blocks)),
      prefix_of_(static_cast<std::size_t>(num_blocks)) {
    free_.reserve(static_cast<std::size_t>(num_blocks));
    for (BlockId block = num_blocks - 1; block >= 0; --block) free_.push_back(block);
    links_[num_blocks] = {num_blocks, num_blocks};
}

BlockId BlockPool::take() {
    if (!free_.empty()) {
        const BlockId block = free_.back();
        free_.pop_back();
        return block;
    }
    const BlockId oldest = oldest_leaf();
    if (oldest == kNoBlock || machine_.stamp(oldest) > machine_.landed()) return kNoBlock;
    const BlockId parent = machine_.parent(oldest);
    require(machine_.apply_evict(oldest, parent));
    unlink(oldest);
    by_prefix_.erase(prefix_of_[oldest]);
    ++evictions_;
    const bool set_aside = links_[parent].next == parent;
    if (set_aside && machine_.block_state(parent) == BlockState::Cached && machine_.children(parent) == 0) {
        const auto end = static_cast<BlockId>(prefix_of_.size());
        link_between(end, parent, links_[end].next);
    }
    return oldest;
}

BlockId BlockPool::oldest_leaf() {
    const auto end = static_cast<BlockId>(prefix_of_.size());
    for (;;) {
        const BlockId oldest = links_[end].next;
        if (oldest == end) return kNoBlock;
        if (machine_.children(oldest) == 0) return oldest;
        unlink(oldest);
        links_[oldest] = {oldest, oldest};
    }
}

void BlockPool::cached(BlockId block) {
    const auto end = static_cast<BlockId>(prefix_of_.size());
    link_between(links_[end].previous, block, end);
}

void BlockPool::link_between(BlockId previous, BlockId block, BlockId next) {
    links_[block] = {previous, next};
    links_[previous].next = block;
    links_[next].previous = block;
}

void BlockPool::unlink(BlockId block) {
    const Link link = links_[block];
    links_[link.previous].next = link.next;
    links_[link.next].previous = link.previous;
}

void BlockPool::reap() {
    while (!limbo_.empty() && machine_.stamp(limbo_.front()) <= machine_.landed()) {
        require(machine_.apply_reap(limbo_.front()));
        free_.push_back(limbo_.front());
        limbo_.pop_front();
    }
}

void BlockPool::index(BlockId block, const PageHash& prefix) {
    by_prefix_.insert(prefix, block);
    prefix_of_[block] = prefix;
    ++version_;
}

void BlockPool::check() const {
    const auto end = static_cast<BlockId>(prefix_of_.size());
    const auto expect = [](bool condition, const std::string& what) {
        if (!condition) throw InvariantViolated("block pool: " + what);
    };
    for (const BlockId block : free_) {
        expect(machine_.block_state(block) == BlockState::Free,
               "block " + std::to_string(block) + " is listed as free but is not");
    }
    expect(static_cast<std::int64_t>(free_.size()) == machine_.free(), "the free list has not all free blocks");
    std::int64_t cached = 0;
    for (BlockId block = links_[end].next; block != end; block = links_[block].next) {
        expect(machine_.block_state(block) == BlockState::Cached,
               "block " + std::to_string(block) + " is listed as cached but is not");
        ++cached;
    }
    for (BlockId block = 0; block < end; ++block) {
        if (machine_.block_state(block) != BlockState::Cached || links_[block].next != block) continue;
        expect(machine_.children(block) > 0, "block " + std::to_string(block) + " is set aside but is a leaf");
        ++cached;
    }
    expect(cached == machine_.cached(), "the cache list has not all cached blocks");
    for (const BlockId block : limbo_) {
        expect(machine_.block_state(block) == BlockState::Limbo,
               "block " + std::to_string(block) + " is listed in limbo but is not");
    }
    by_prefix_.for_each([&](const PageHash& prefix, BlockId block) {
        const BlockState state = machine_.block_state(block);
        expect(state == BlockState::Shared || state == BlockState::Cached,
               "block " + std::to_string(block) + " is indexed but not published");
        expect(machine_.key(block) == name_of(prefix), "block " + std::to_string(block) + " has another name");
        expect(prefix_of_[block] == prefix, "block " + std::to_string(block) + " is indexed under another prefix");
    });
}

}  // namespace tokenspeed
