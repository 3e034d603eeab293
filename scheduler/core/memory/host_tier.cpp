#include "scheduler/core/memory/host_tier.h"

#include <string>
#include <utility>

#include "scheduler/core/contract/errors.h"

namespace tokenspeed {

HostTier::HostTier(Machine& machine, const SchedulerConfig& config)
    : machine_(machine),
      prefix_of_(static_cast<std::size_t>(config.num_host_blocks)),
      uses_(static_cast<std::size_t>(config.num_host_blocks)),
      links_(static_cast<std::size_t>(config.num_host_blocks) + 1),
      tokens_of_(static_cast<std::size_t>(config.copy_records())),
      id_of_(static_cast<std::size_t>(config.copy_records())) {
    for (HostId page = config.num_host_blocks - 1; page >= 0; --page) empty_.push_back(page);
    for (HostId at = 0; at <= config.num_host_blocks; ++at) links_[at] = {at, at};
    for (CopyId copy = config.copy_records() - 1; copy >= 0; --copy) idle_copies_.push_back(copy);
    running_.reserve(idle_copies_.size());
}

HostId HostTier::find(const PageHash& prefix) const {
    const HostId page = by_prefix_.find(prefix);
    return page == kNone || machine_.host_state(page) != HostState::Valid ? kNone : page;
}

HostId HostTier::droppable() const {
    const auto end = static_cast<HostId>(prefix_of_.size());
    const HostId oldest = links_[end].next;
    return oldest == end ? kNone : oldest;
}

HostId HostTier::take_page() {
    if (empty_.empty()) forget(droppable());
    const HostId page = empty_.back();
    empty_.pop_back();
    return page;
}

void HostTier::forget(HostId page) {
    require(machine_.apply_drop_page(page));
    unlink(page);
    by_prefix_.erase(prefix_of_[page]);
    empty_.push_back(page);
}

bool HostTier::drop(const PageHash& prefix) {
    const HostId page = find(prefix);
    if (page == kNone || machine_.host_copies(page) > 0) return false;
    forget(page);
    return true;
}

void HostTier::begin(CopyKind kind, CopyId copy, BlockId block, HostId page, std::int64_t tokens) {
    idle_copies_.pop_back();
    running_.emplace(++last_id_, copy);
    id_of_[copy] = last_id_;
    tokens_of_[copy] = tokens;
    queued_[static_cast<std::size_t>(kind)] += tokens;
    ++begun_[static_cast<std::size_t>(kind)];
    batch_.ids.push_back(last_id_);
    batch_.kinds.push_back(static_cast<std::uint8_t>(kind));
    batch_.blocks.push_back(block);
    batch_.host_pages.push_back(page);
    batch_.num_tokens.push_back(static_cast<std::int32_t>(tokens));
}

void HostTier::spill(BlockId block, HostId page, const PageHash& prefix, std::uint8_t uses) {
    const CopyId copy = idle_copies_.back();
    require(machine_.apply_spill(copy, block, page));
    prefix_of_[page] = prefix;
    uses_[page] = uses;
    by_prefix_.insert(prefix, page);
    begin(CopyKind::Spill, copy, block, page, machine_.fill(block));
}

void HostTier::fetch(HostId page, BlockId block, BlockId parent) {
    const CopyId copy = idle_copies_.back();
    require(machine_.apply_fetch(copy, block, page, parent));
    unlink(page);
    begin(CopyKind::Fetch, copy, block, page, machine_.host_fill(page));
}

CopyId HostTier::record_of(std::int64_t id) const {
    const auto at = running_.find(id);
    return at == running_.end() ? kNone : at->second;
}

HostTier::Ended HostTier::end(CopyId copy) {
    const bool spilled = machine_.copy_state(copy) == CopyState::Spilling;
    const Ended ended{spilled ? CopyKind::Spill : CopyKind::Fetch, machine_.block_of(copy), machine_.host_of(copy),
                      prefix_of_[machine_.host_of(copy)]};
    require(machine_.apply_copy_done(copy));
    if (spilled) {
        require(machine_.apply_spill_done(copy, ended.block, ended.page));
    } else {
        require(machine_.apply_fetch_done(copy, ended.block, ended.page));
    }
    if (machine_.host_copies(ended.page) == 0) link_last(ended.page);
    queued_[static_cast<std::size_t>(ended.kind)] -= tokens_of_[copy];
    running_.erase(id_of_[copy]);
    idle_copies_.push_back(copy);
    return ended;
}

CopyBatch HostTier::take_batch() {
    return std::exchange(batch_, {});
}

void HostTier::unlink(HostId page) {
    const Link link = links_[page];
    links_[link.previous].next = link.next;
    links_[link.next].previous = link.previous;
    links_[page] = {page, page};
}

void HostTier::link_last(HostId page) {
    const auto end = static_cast<HostId>(prefix_of_.size());
    const HostId newest = links_[end].previous;
    links_[page] = {newest, end};
    links_[newest].next = page;
    links_[end].previous = page;
}

void HostTier::restore() {
    empty_.clear();
    for (auto page = static_cast<HostId>(prefix_of_.size()) - 1; page >= 0; --page) {
        const HostState state = machine_.host_state(page);
        const bool listed = links_[page].next != page;
        const bool quiet = state == HostState::Valid && machine_.host_copies(page) == 0;
        if (state == HostState::Empty) {
            empty_.push_back(page);
            if (by_prefix_.find(prefix_of_[page]) == page) by_prefix_.erase(prefix_of_[page]);
        }
        if (listed && !quiet) unlink(page);
        if (!listed && quiet) link_last(page);
    }
    idle_copies_.clear();
    for (auto copy = static_cast<CopyId>(tokens_of_.size()) - 1; copy >= 0; --copy) {
        if (machine_.copy_state(copy) == CopyState::Idle) idle_copies_.push_back(copy);
    }
}

void HostTier::check() const {
    const auto expect = [](bool condition, const std::string& what) {
        if (!condition) throw InvariantViolated("host tier: " + what);
    };
    expect(static_cast<std::int64_t>(empty_.size()) == machine_.spare_pages(), "the list has not all empty pages");
    expect(static_cast<std::int64_t>(by_prefix_.size()) == machine_.used_pages(), "the index has not all used pages");
    by_prefix_.for_each([&](const PageHash& prefix, HostId page) {
        expect(machine_.host_state(page) != HostState::Empty, "page " + std::to_string(page) + " is indexed but empty");
        expect(machine_.host_key(page) == name_of(prefix), "page " + std::to_string(page) + " has another name");
        const bool listed = links_[page].next != page;
        const bool quiet = machine_.host_state(page) == HostState::Valid && machine_.host_copies(page) == 0;
        expect(listed == quiet, "page " + std::to_string(page) + " is listed as quiet but is not, or the other way");
    });
    std::int64_t tokens[2] = {0, 0};
    for (const auto& [id, copy] : running_) {
        const CopyState state = machine_.copy_state(copy);
        expect(state == CopyState::Spilling || state == CopyState::Fetching,
               "copy " + std::to_string(id) + " is listed as under way but is not");
        tokens[state == CopyState::Spilling ? 0 : 1] += tokens_of_[copy];
    }
    expect(tokens[0] == queued_[0] && tokens[1] == queued_[1], "the tokens on the link are counted wrongly");
    expect(running_.size() + idle_copies_.size() == tokens_of_.size(), "a copy record is lost");
}

}  // namespace tokenspeed
