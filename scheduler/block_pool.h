// Where free, cached and limbo blocks wait, and which published block holds which prefix. Proposes; the machine
// decides.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "generated/machine.h"
#include "page_hash.h"
#include "prefix_table.h"

namespace tokenspeed {

class BlockPool {
  public:
    BlockPool(Machine& machine, std::int32_t num_blocks);

    // A free block, evicting the least recently used cached leaf if need be; kNoBlock if there is none now.
    BlockId take();
    // The machine has freed, cached or put the block in limbo.
    void freed(BlockId block) { free_.push_back(block); }
    void cached(BlockId block);
    void limbo(BlockId block) { limbo_.push_back(block); }
    // The machine has taken the block out of the cache because a request matched it.
    void matched(BlockId block) { unlink(block); }
    // Frees every block in limbo whose last step has landed.
    void reap();

    // The published block that ends this prefix, or kNoBlock.
    BlockId find(const PageHash& prefix) const { return by_prefix_.find(prefix); }
    // Asks the cache for what `find` will read.
    void prefetch(const PageHash& prefix) const { by_prefix_.prefetch(prefix); }
    // The machine has published the block under this prefix; false if another block already has it (nothing changes).
    void index(BlockId block, const PageHash& prefix);

    std::uint64_t evictions() const { return evictions_; }
    // Changes whenever a prefix is added; what was not found before need not be looked for until then.
    std::uint64_t version() const { return version_; }

    // Throws InvariantViolated if a list disagrees with the machine.
    void check() const;

  private:
    void unlink(BlockId block);
    void link_between(BlockId previous, BlockId block, BlockId next);
    // Least recently used first; kNoBlock if the machine has no cached block that no other continues.
    BlockId oldest_leaf();

    Machine& machine_;
    std::vector<BlockId> free_;
    std::deque<BlockId> limbo_;
    // Cached blocks as a list from least (head) to most recently used; links_[num_blocks] is both ends. A block that
    // comes to the head while others continue it is set aside, linked to itself, and comes back to the head with the
    // eviction of the last of them.
    struct Link {
        BlockId previous;
        BlockId next;
    };
    std::vector<Link> links_;
    PrefixTable by_prefix_;
    std::vector<PageHash> prefix_of_;
    std::uint64_t evictions_ = 0;
    std::uint64_t version_ = 0;
};

}  // namespace tokenspeed
