// What of a request's text is there already: on the device, on the host, or being computed by another request.
#include <algorithm>
#include <cstddef>
#include <string>

#include "scheduler/core/contract/errors.h"
#include "scheduler/core/scheduler.h"

namespace tokenspeed {

namespace {

constexpr std::size_t kPrefetchDistance = 8;  // look-ups that are on their way to the cache at once
constexpr std::int32_t kPatience = 8;         // rounds in all that a request waits for a prefix that does not advance

}  // namespace

bool Scheduler::still_held(Record& record) const {
    const auto on_its_way = [this](const PageHash& prefix) {
        const BlockId block = pool_.find(prefix);
        return block != kNoBlock && machine_.block_state(block) == BlockState::Fetching;
    };
    if (record.hold == Hold::Fetch) {
        while (record.held_from < record.held_to && !on_its_way(record.pages[record.held_from])) ++record.held_from;
        return record.held_from < record.held_to || on_its_way(record.awaited);
    }
    const RequestId other = computing_.find(record.awaited);
    if (other == kNone) return false;
    const std::int64_t progress = machine_.planned(other) + machine_.computed(other);
    if (progress == record.awaited_progress && ++record.stalled_rounds > kPatience) return false;
    record.awaited_progress = progress;
    return true;
}

// Whole pages of the first `known` tokens that may be found; the last known token is always computed anew.
std::int64_t Scheduler::whole_pages(const Record& record, std::int64_t known) const {
    return std::min(static_cast<std::int64_t>(record.pages.size()), (known - 1) / config_.block_size);
}

// Finds the published blocks of the request's prefix, from the start.
void Scheduler::match_prefix(const Record& record, std::int64_t known) {
    const auto most = static_cast<std::size_t>(whole_pages(record, known));
    matched_.clear();
    while (matched_.size() < most) {
        pool_.prefetch(record.pages[std::min(matched_.size() + kPrefetchDistance, most - 1)]);
        const BlockId block = pool_.find(record.pages[matched_.size()]);
        if (block == kNoBlock || machine_.block_state(block) == BlockState::Fetching) return;
        // Hashes that a driver made (submit_hashed) may name a page without what is in front of it.
        if (machine_.parent(block) != (matched_.empty() ? block : matched_.back())) return;
        matched_.push_back(block);
    }
}

// The partial page that the request left behind when it was retracted, if it can be taken over now.
BlockId Scheduler::find_tail(RequestId request) const {
    const Record& record = records_[request];
    if (record.tail_tokens == 0) return kNoBlock;
    const auto pages = static_cast<std::int64_t>(matched_.size());
    if (pages * config_.block_size + record.tail_tokens >= machine_.known(request)) return kNoBlock;
    const BlockId block = pool_.find(tail_hash(request, pages, record.tail_tokens));
    if (block == kNoBlock || machine_.block_state(block) != BlockState::Cached) return kNoBlock;
    const bool quiet = machine_.stamp(block) <= machine_.landed() && machine_.copies(block) == 0;
    const bool follows = machine_.parent(block) == (matched_.empty() ? block : matched_.back());
    return quiet && follows ? block : kNoBlock;
}

// Names the first `tokens` tokens behind whole pages. Of a request that is known by hashes, nobody else knows them.
PageHash Scheduler::tail_hash(RequestId request, std::int64_t pages, std::int64_t tokens) const {
    const Record& record = records_[request];
    const PageHash prefix = pages == 0 ? PageHasher::kEmpty : record.pages[pages - 1];
    if (!record.hashed) {
        return hasher_.tail(prefix,
                            {record.tokens.data() + pages * config_.block_size, static_cast<std::size_t>(tokens)});
    }
    const std::uint64_t arrival = static_cast<std::uint64_t>(machine_.arrival(request));
    const std::int32_t words[3] = {static_cast<std::int32_t>(arrival), static_cast<std::int32_t>(arrival >> 32),
                                   static_cast<std::int32_t>(tokens)};
    return hasher_.tail(prefix, words);
}

// Whether the pages behind those that were found are on their way from the host, or are being computed by a request
// that runs and are worth waiting for.
bool Scheduler::waits_for_other(RequestId request) {
    Record& record = records_[request];
    const auto found = static_cast<std::int64_t>(matched_.size());
    const std::int64_t most = whole_pages(record, machine_.known(request));
    std::int64_t end = found;
    while (end < most) {
        const BlockId block = pool_.find(record.pages[end]);
        if (block == kNoBlock || machine_.block_state(block) != BlockState::Fetching) break;
        ++end;
    }
    if (end > found) {
        record.hold = Hold::Fetch;
        record.held_from = found;
        record.held_to = end;
        record.awaited = {};
        return true;
    }
    RequestId other = kNone;
    while (end < most) {
        const RequestId computes = computing_.find(record.pages[end]);
        if (computes == kNone) break;
        other = computes;
        ++end;
    }
    if (other == kNone || record.stalled_rounds > kPatience) return false;
    const std::int64_t remaining = end * config_.block_size - machine_.computed(other);
    if (!prefers_waiting((end - found) * config_.block_size, remaining)) return false;
    record.hold = Hold::Prefix;
    record.awaited = record.pages[end - 1];
    record.awaited_progress = machine_.planned(other) + machine_.computed(other);
    return true;
}

// The host page that continues what is in front of this page of the request's text, or kNone: hashes that a driver made
// may name a page without it.
HostId Scheduler::find_on_host(const Record& record, std::int64_t page) const {
    const HostId found = host_.find(record.pages[page]);
    if (found == kNone || !record.hashed) return found;
    const std::int64_t before = page == 0 ? 0 : name_of(record.pages[page - 1]);
    const bool continues =
        machine_.host_position(found) == page * config_.block_size && machine_.host_before(found) == before;
    return continues ? found : kNone;
}

// A page's hash names everything up to its end, so it has one place and one predecessor. Throws BadRequest if a hash is
// known with another: on the device, on the host, or as a page that a running request computes.
void Scheduler::check_chain(std::span<const std::uint64_t> page_hashes) const {
    const auto refuse = [&](std::size_t page, const std::string& why) {
        throw BadRequest("page_hashes[" + std::to_string(page) + "] is " + std::to_string(page_hashes[page]) +
                         ", which " + why +
                         "; the hash of a page must name all tokens up to its end, so derive it from the hash before "
                         "it as well");
    };
    std::vector<std::uint64_t> sorted(page_hashes.begin(), page_hashes.end());
    std::sort(sorted.begin(), sorted.end());
    if (const auto twice = std::adjacent_find(sorted.begin(), sorted.end()); twice != sorted.end()) {
        const auto first = std::find(page_hashes.begin(), page_hashes.end(), *twice);
        refuse(static_cast<std::size_t>(std::find(first + 1, page_hashes.end(), *twice) - page_hashes.begin()),
               "is in this list twice");
    }
    for (std::size_t page = 0; page < page_hashes.size(); ++page) {
        const PageHash prefix{0, page_hashes[page]};
        const PageHash previous = page == 0 ? PageHash{} : PageHash{0, page_hashes[page - 1]};
        const std::int64_t position = static_cast<std::int64_t>(page) * config_.block_size;
        const std::int64_t before = page == 0 ? 0 : name_of(previous);
        const BlockId block = pool_.find(prefix);
        if (block != kNoBlock && (machine_.position(block) != position || machine_.before(block) != before)) {
            refuse(page, "is on the device behind another page");
        }
        const HostId host = host_.known(prefix);
        if (host != kNone && (machine_.host_position(host) != position || machine_.host_before(host) != before)) {
            refuse(page, "is on the host behind another page");
        }
        const RequestId other = computing_.find(prefix);
        if (other == kNone) continue;
        const std::vector<PageHash>& pages = records_[other].pages;
        const bool here = page < pages.size() && pages[page] == prefix;
        if (!here || (page > 0 && !(pages[page - 1] == previous))) {
            refuse(page, "request " + std::to_string(records_[other].request_id) + " computes behind another page");
        }
    }
}

// Twice what its prefix has, so that a wait for pages that are evicted again and again ends.
std::int64_t Scheduler::fetch_limit(RequestId request) const {
    return 2 * (machine_.known(request) / config_.block_size + 1);
}

// Starts to copy the pages behind those that were found from the host, if that is preferred to computing them: as many
// as there are blocks for, and the others when these have come.
bool Scheduler::fetch_rest(RequestId request) {
    Record& record = records_[request];
    if (!host_.enabled() || record.fetches_left <= 0) return false;
    const auto found = static_cast<std::int64_t>(matched_.size());
    const std::int64_t known = machine_.known(request);
    const std::int64_t most = whole_pages(record, known);
    std::int64_t end = found;
    while (end < most && find_on_host(record, end) != kNone && pool_.find(record.pages[end]) == kNoBlock) ++end;
    PageHash tail;
    HostId tail_page = kNone;
    if (record.tail_tokens > 0 && end * config_.block_size + record.tail_tokens < known) {
        tail = tail_hash(request, end, record.tail_tokens);
        if (pool_.find(tail) == kNoBlock) tail_page = host_.find(tail);
    }
    const std::int64_t tokens = (end - found) * config_.block_size + (tail_page == kNone ? 0 : record.tail_tokens);
    if (tokens == 0 || !prefers_fetch(found * config_.block_size, tokens)) return false;
    round_.spills_left = std::max(round_.spills_left, end - found);
    BlockId parent = matched_.empty() ? kNoBlock : matched_.back();
    std::int64_t at = found;
    for (; at < end; ++at) {
        const BlockId block = fetch(find_on_host(record, at), record.pages[at], parent);
        if (block == kNoBlock) break;
        parent = block;
    }
    const bool with_tail = at == end && tail_page != kNone && fetch(tail_page, tail, parent) != kNoBlock;
    if (at == found && !with_tail) {
        --record.fetches_left;  // so that this ends
        const bool something_will_happen = builder_.is_open() || !in_flight_.empty() || host_.in_flight() > 0;
        return something_will_happen && memory_is_coming();
    }
    record.hold = Hold::Fetch;
    record.held_from = found;
    record.held_to = at;
    record.awaited = with_tail ? tail : PageHash{};
    record.fetches_left -= at - found + (with_tail ? 1 : 0);
    record.fetched_tokens += (at - found) * config_.block_size + (with_tail ? record.tail_tokens : 0);
    record.needed = std::max<std::int64_t>(record.needed - (at - found) - (with_tail ? 1 : 0), 0);
    return true;
}

// The request will compute the pages of its known tokens that it did not find.
void Scheduler::announce(RequestId request) {
    Record& record = records_[request];
    const auto whole = machine_.known(request) / config_.block_size;
    const auto end = std::min(static_cast<std::int64_t>(record.pages.size()), whole);
    for (; record.pages_announced < end; ++record.pages_announced) {
        computing_.insert(record.pages[record.pages_announced], request);
    }
}

// Pages before `end` are published now, or will not be computed by this request after all.
void Scheduler::withdraw(Record& record, std::int64_t end) {
    const RequestId self = static_cast<RequestId>(&record - records_.data());
    for (std::int64_t page = record.pages_offered; page < std::min(end, record.pages_announced); ++page) {
        if (computing_.find(record.pages[page]) == self) computing_.erase(record.pages[page]);
    }
}

}  // namespace tokenspeed
