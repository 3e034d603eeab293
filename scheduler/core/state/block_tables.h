// The relation "request holds block" as one table of blocks for each request, indexed by position / page.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "scheduler/core/state/ids.h"

namespace tokenspeed {

class BlockTables {
  public:
    explicit BlockTables(std::int64_t page) : page_(page) {}

    void add_request() { tables_.emplace_back(); }

    // Whether the request's table has the block at this token position.
    bool contains(RequestId request, BlockId block, std::int64_t position) const {
        const auto& table = tables_[request];
        const auto at = static_cast<std::size_t>(position / page_);
        return at < table.size() && table[at] == block;
    }

    // Adds or removes the block at this token position. The specification's guards keep tables without gaps while
    // requests run.
    void set(RequestId request, BlockId block, std::int64_t position, bool held) {
        auto& table = tables_[request];
        const auto at = static_cast<std::size_t>(position / page_);
        if (held) {
            if (at >= table.size()) table.resize(at + 1, kNoBlock);
            table[at] = block;
        } else {
            if (at < table.size() && table[at] == block) table[at] = kNoBlock;
            while (!table.empty() && table.back() == kNoBlock) table.pop_back();
        }
    }

    // The blocks of a request, in order of position.
    const std::vector<BlockId>& of(RequestId request) const { return tables_[request]; }

  private:
    std::int64_t page_;
    std::vector<std::vector<BlockId>> tables_;
};

}  // namespace tokenspeed
