// Prefix hash -> block or request: open addressing with linear probing, so that a look-up is one or two cache lines
// and nothing is allocated until the table grows.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "scheduler/core/memory/page_hash.h"
#include "scheduler/core/state/ids.h"

namespace tokenspeed {

class PrefixTable {
  public:
    // Does not grow until it has more than `expected` entries.
    explicit PrefixTable(std::size_t expected = 0) : entries_(std::bit_ceil(2 * expected + 16)) {}

    // What is stored under the prefix, or kNone.
    std::int32_t find(const PageHash& prefix) const { return entries_[slot_of(prefix)].value; }

    // Asks the cache for what `find` will read.
    void prefetch(const PageHash& prefix) const { __builtin_prefetch(&entries_[home(prefix)]); }

    // Stores a value of at least 0; false if the prefix has one already, which stays.
    bool insert(const PageHash& prefix, std::int32_t value) {
        if (2 * (size_ + 1) > entries_.size()) grow();
        Entry& entry = entries_[slot_of(prefix)];
        if (entry.value != kNone) return false;
        entry = {prefix, value};
        ++size_;
        return true;
    }

    // Removes the prefix if it is there. Entries behind it move up, so that a search may end at the first empty slot.
    void erase(const PageHash& prefix) {
        std::size_t hole = slot_of(prefix);
        if (entries_[hole].value == kNone) return;
        for (std::size_t at = next(hole); entries_[at].value != kNone; at = next(at)) {
            const std::size_t from_home = (at - home(entries_[at].prefix)) & mask();
            if (from_home >= ((at - hole) & mask())) {
                entries_[hole] = entries_[at];
                hole = at;
            }
        }
        entries_[hole].value = kNone;
        --size_;
    }

    std::size_t size() const { return size_; }

    template <class Visit>
    void for_each(Visit visit) const {
        for (const Entry& entry : entries_) {
            if (entry.value != kNone) visit(entry.prefix, entry.value);
        }
    }

  private:
    struct Entry {
        PageHash prefix;
        std::int32_t value = kNone;
    };

    std::size_t mask() const { return entries_.size() - 1; }
    std::size_t next(std::size_t slot) const { return (slot + 1) & mask(); }
    // Hashes given by traces may be small numbers, so the bits are mixed first.
    std::size_t home(const PageHash& prefix) const {
        const std::uint64_t mixed = (prefix.low ^ prefix.high) * 0x9e3779b97f4a7c15ULL;
        return static_cast<std::size_t>(mixed >> 32 ^ mixed) & mask();
    }
    // Where the prefix is, or the empty slot where it would be.
    std::size_t slot_of(const PageHash& prefix) const {
        std::size_t slot = home(prefix);
        while (entries_[slot].value != kNone && !(entries_[slot].prefix == prefix)) slot = next(slot);
        return slot;
    }
    void grow() {
        std::vector<Entry> old(2 * entries_.size());
        old.swap(entries_);
        for (const Entry& entry : old) {
            if (entry.value != kNone) entries_[slot_of(entry.prefix)] = entry;
        }
    }

    std::vector<Entry> entries_;
    std::size_t size_ = 0;
};

}  // namespace tokenspeed
