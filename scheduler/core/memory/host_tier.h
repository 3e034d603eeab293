// The host tier: which host page holds which prefix, and the copies under way. Proposes; the machine decides.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "scheduler/core/contract/config.h"
#include "scheduler/core/memory/page_hash.h"
#include "scheduler/core/memory/prefix_table.h"
#include "scheduler/generated/machine.h"

namespace tokenspeed {

enum class CopyKind : std::uint8_t { Spill, Fetch };

// Copies that the driver has to start, as arrays of one length.
struct CopyBatch {
    std::vector<std::int64_t> ids;
    std::vector<std::uint8_t> kinds;  // CopyKind
    std::vector<std::int32_t> blocks;
    std::vector<std::int32_t> host_pages;
    std::vector<std::int32_t> num_tokens;

    bool empty() const { return ids.empty(); }
};

class HostTier {
  public:
    HostTier(Machine& machine, const SchedulerConfig& config);

    bool enabled() const { return !prefix_of_.empty(); }

    // The host page with this prefix's last page that can be fetched, or kNone.
    HostId find(const PageHash& prefix) const;
    // The page that is on the host or on its way there, or kNone.
    HostId known(const PageHash& prefix) const { return by_prefix_.find(prefix); }
    bool has(const PageHash& prefix) const { return known(prefix) != kNone; }
    std::uint8_t uses(HostId page) const { return uses_[page]; }

    // Whether another copy can begin: a record is unused and, for a spill, a page is empty or may and can be dropped.
    bool can_fetch() const { return !idle_copies_.empty(); }
    bool can_spill(bool may_drop) const {
        return !idle_copies_.empty() && (!empty_.empty() || (may_drop && droppable() != kNone));
    }
    // The page that is dropped if one is needed: the least recently used that no copy touches; kNone while some are
    // empty.
    HostId next_dropped() const { return empty_.empty() ? droppable() : kNone; }
    const PageHash& prefix_of(HostId page) const { return prefix_of_[page]; }
    // An empty page to spill into, dropping `next_dropped` if there is none.
    HostId take_page();
    // Begin a copy that the machine allows; the driver hears of it with the next batch.
    void spill(BlockId block, HostId page, const PageHash& prefix, std::uint8_t uses);
    void fetch(HostId page, BlockId block, BlockId parent);
    // The page's content was taken over by its request and grows there: the copy is of no use.
    bool drop(const PageHash& prefix);

    // The machine's record of the copy with this id, or kNone if none is under way.
    CopyId record_of(std::int64_t id) const;
    struct Ended {
        CopyKind kind;
        BlockId block;
        HostId page;
        PageHash prefix;
    };
    // The copy has ended.
    Ended end(CopyId copy);

    // Copies begun since the last call.
    CopyBatch take_batch();

    // Tokens that are queued on the link in each direction.
    std::int64_t queued(CopyKind kind) const { return queued_[static_cast<std::size_t>(kind)]; }
    std::int64_t in_flight() const { return static_cast<std::int64_t>(running_.size()); }
    std::int64_t copies(CopyKind kind) const { return begun_[static_cast<std::size_t>(kind)]; }

    // Calls add(value) for what decides which pages are used next, and for the copies under way, oldest first.
    template <class Add>
    void fingerprint(Add&& add) const {
        for (const HostId page : empty_) add(page);
        add(-1);
        const auto end = static_cast<HostId>(prefix_of_.size());
        for (HostId page = links_[end].next; page != end; page = links_[page].next) add(page);
        add(-1);
        for (const std::uint8_t uses : uses_) add(uses);
        for (const CopyId copy : idle_copies_) add(copy);
        add(-1);
        for (std::int64_t id = last_id_ - static_cast<std::int64_t>(tokens_of_.size()); id <= last_id_; ++id) {
            if (const CopyId copy = record_of(id); copy != kNone) add(copy);
        }
        add(static_cast<std::int64_t>(batch_.ids.size()));
    }
    // Makes the lists of pages and copy records again from the machine's state.
    void restore();
    // Throws InvariantViolated if a list disagrees with the machine.
    void check() const;

  private:
    HostId droppable() const;
    void begin(CopyKind kind, CopyId copy, BlockId block, HostId page, std::int64_t tokens);
    void unlink(HostId page);
    void link_last(HostId page);
    void forget(HostId page);

    Machine& machine_;
    PrefixTable by_prefix_;
    std::vector<PageHash> prefix_of_;
    std::vector<std::uint8_t> uses_;
    std::vector<HostId> empty_;
    // Valid pages that no copy touches, from least to most recently used; the last link is both ends.
    struct Link {
        HostId previous;
        HostId next;
    };
    std::vector<Link> links_;
    std::vector<CopyId> idle_copies_;
    std::vector<std::int64_t> tokens_of_;
    std::unordered_map<std::int64_t, CopyId> running_;
    std::vector<std::int64_t> id_of_;
    CopyBatch batch_;
    std::int64_t last_id_ = 0;
    std::int64_t queued_[2] = {0, 0};
    std::int64_t begun_[2] = {0, 0};
};

}  // namespace tokenspeed
