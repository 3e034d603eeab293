#include "scheduler/core/scheduler.h"

#include <algorithm>
#include <string>
#include <utility>

#include "scheduler/core/contract/errors.h"

namespace tokenspeed {

namespace {

// Attention that looks back over the whole context never leaves a block behind its window.
constexpr std::int64_t kWholeContext = std::int64_t{1} << 40;

Limits limits_of(const SchedulerConfig& config) {
    Limits limits;
    limits.page = config.block_size;
    limits.blocks = config.num_blocks;
    limits.room = limits.page * limits.blocks;
    limits.window = kWholeContext;
    limits.step_records = config.overlap_depth + 1;
    limits.hosts = config.num_host_blocks;
    limits.width = 1 + config.max_draft_tokens;
    limits.copy_records = config.copy_records();
    return limits;
}

}  // namespace

Scheduler::Scheduler(const SchedulerConfig& config, std::shared_ptr<const Policy> policy)
    : config_((config.validate(), config)),
      machine_(limits_of(config)),
      pool_(machine_, config.num_blocks),
      hasher_(config.block_size),
      host_(machine_, config),
      builder_(config),
      policy_(policy != nullptr ? std::move(policy) : std::make_shared<const Policy>()) {
    for (std::int32_t slot = config.max_running - 1; slot >= 0; --slot) free_slots_.push_back(slot);
    for (StepId step = config.overlap_depth; step >= 0; --step) idle_steps_.push_back(step);
    static_assert(kTransitions <= TraceRecord::kFirstKind);
    if (config.record_trace) {
        trace_ = std::make_unique<TraceBuffer>(static_cast<std::size_t>(config.trace_capacity));
        machine_.record_to(trace_.get());
    }
}

namespace {

// Where the first negative token is, or their number.
std::size_t first_negative(std::span<const std::int32_t> tokens) {
    std::int32_t sign = 0;
    for (const std::int32_t token : tokens) sign |= token;
    if (sign >= 0) [[likely]]
        return tokens.size();
    return static_cast<std::size_t>(std::find_if(tokens.begin(), tokens.end(), [](auto t) { return t < 0; }) -
                                    tokens.begin());
}

// Throws BadRequest that names the field.
void check_lengths(std::int64_t prompt_tokens, std::int64_t max_new_tokens) {
    constexpr std::int64_t kMaxTokens = std::int64_t{1} << 30;
    if (prompt_tokens < 1 || prompt_tokens > kMaxTokens) {
        throw BadRequest("the prompt has " + std::to_string(prompt_tokens) + " tokens; it must have 1 to 2^30");
    }
    if (max_new_tokens < 1 || max_new_tokens > kMaxTokens) {
        throw BadRequest("max_new_tokens is " + std::to_string(max_new_tokens) + "; it must be 1 to 2^30");
    }
}

}  // namespace

std::string Scheduler::submit(std::int64_t request_id, std::span<const std::int32_t> tokens,
                              std::int64_t max_new_tokens, Urgency urgency) {
    if (const auto bad = first_negative(tokens); bad < tokens.size()) {
        throw BadRequest("tokens[" + std::to_string(bad) + "] is " + std::to_string(tokens[bad]) +
                         "; token ids must not be negative");
    }
    const auto prompt_tokens = static_cast<std::int64_t>(tokens.size());
    if (std::string reason = why_never(request_id, prompt_tokens, max_new_tokens); !reason.empty()) return reason;
    Record record;
    record.urgency = urgency;
    // Room for the output too: decoding must not move the prompt.
    const auto all = static_cast<std::size_t>(prompt_tokens + max_new_tokens);
    record.tokens.reserve(all);
    record.tokens.assign(tokens.begin(), tokens.end());
    record.last_token = tokens.back();
    if (config_.prefix_cache) {
        record.pages.reserve(all / static_cast<std::size_t>(config_.block_size));
        extend_hashes(record);
    }
    enqueue(request_id, prompt_tokens, max_new_tokens, std::move(record));
    return {};
}

std::string Scheduler::submit_hashed(std::int64_t request_id, std::int64_t prompt_tokens,
                                     std::span<const std::uint64_t> page_hashes, std::int64_t max_new_tokens,
                                     Urgency urgency) {
    std::string reason = why_never(request_id, prompt_tokens, max_new_tokens);
    const std::int64_t pages = (prompt_tokens + max_new_tokens) / config_.block_size;
    if (static_cast<std::int64_t>(page_hashes.size()) > pages) {
        throw BadRequest("page_hashes has " + std::to_string(page_hashes.size()) +
                         " entries, but prompt_tokens + max_new_tokens fill only " + std::to_string(pages) + " blocks");
    }
    if (!reason.empty()) return reason;
    if (config_.prefix_cache) check_chain(page_hashes);
    Record record;
    record.hashed = true;
    record.urgency = urgency;
    if (config_.prefix_cache) {
        record.pages.reserve(page_hashes.size());
        for (const std::uint64_t hash : page_hashes) record.pages.push_back({0, hash});
    }
    enqueue(request_id, prompt_tokens, max_new_tokens, std::move(record));
    return {};
}

// Why the request can never run, or an empty string. Throws if it is malformed or its id is live.
std::string Scheduler::why_never(std::int64_t request_id, std::int64_t prompt_tokens,
                                 std::int64_t max_new_tokens) const {
    refuse_while_deciding("submit");
    check_lengths(prompt_tokens, max_new_tokens);
    if (by_id_.contains(request_id)) {
        throw DuplicateRequest("request " + std::to_string(request_id) +
                               " is already live; give every request an id of its own");
    }
    const std::int64_t stored = prompt_tokens + max_new_tokens - 1;  // the last output token needs no KV
    const std::int64_t blocks = (stored + config_.block_size - 1) / config_.block_size;
    if (blocks <= config_.num_blocks) return {};
    return "prompt of " + std::to_string(prompt_tokens) + " tokens with max_new_tokens " +
           std::to_string(max_new_tokens) + " needs " + std::to_string(blocks) + " KV blocks of " +
           std::to_string(config_.block_size) + " tokens; the pool has " + std::to_string(config_.num_blocks);
}

void Scheduler::enqueue(std::int64_t request_id, std::int64_t prompt_tokens, std::int64_t max_new_tokens,
                        Record record) {
    RequestId request;
    if (unused_.empty()) {
        request = machine_.add_request();
        records_.emplace_back();
    } else {
        request = unused_.back();
        unused_.pop_back();
    }
    require(machine_.apply_submit(request, prompt_tokens, prompt_tokens + max_new_tokens, ++arrivals_));
    record.request_id = request_id;
    records_[request] = std::move(record);
    if (config_.max_draft_tokens > 0) drafts_.resize(records_.size());
    by_id_.emplace(request_id, request);
    records_[request].place = place(request);
    records_[request].fetches_left = fetch_limit(request);
    waiting_.enter(request, records_[request].place, machine_.arrival(request));
    ++totals_.submitted;
}

void Scheduler::refuse_while_deciding(const char* call) const {
    if (deciding_) {
        throw AskedWhileDeciding(std::string(call) +
                                 " was called by the policy of this scheduler while it decides; a "
                                 "policy only looks at what it is given");
    }
}

RequestId Scheduler::find(std::int64_t request_id) const {
    const auto at = by_id_.find(request_id);
    if (at == by_id_.end()) {
        throw UnknownRequest("request " + std::to_string(request_id) +
                             " is not live: never submitted, or already finished or aborted");
    }
    return at->second;
}

void Scheduler::abort(std::int64_t request_id) {
    refuse_while_deciding("abort");
    const RequestId request = find(request_id);
    if (machine_.request_state(request) == RequestState::Waiting) {
        waiting_.leave(request);
    }
    require(machine_.apply_abort(request));
    emit(EventKind::Aborted, request, machine_.known(request) - machine_.prompt(request));
    ++totals_.aborted;
    leave(request);
}

void Scheduler::land(std::int64_t step, std::span<const std::int32_t> tokens, std::span<const std::int32_t> counts,
                     std::span<const std::uint8_t> stop) {
    refuse_while_deciding("land");
    if (in_flight_.empty() || in_flight_.front()->step != step) {
        throw UnknownStep("step " + std::to_string(step) + " cannot land: " +
                          (in_flight_.empty()
                               ? "no step is in flight"
                               : "the oldest step in flight is " + std::to_string(in_flight_.front()->step)));
    }
    StepPlan* const plan = in_flight_.front().get();
    check_results(*plan, tokens, counts, stop);
    builder_.landed(std::move(in_flight_.front()));
    in_flight_.erase(in_flight_.begin());
    require(machine_.apply_device_done(plan->record));
    require(machine_.apply_observe(plan->record));
    finished_.clear();
    land_rows(*plan, tokens, counts, stop);
    drop_abandoned(*plan);
    require(machine_.apply_retire(plan->record));
    idle_steps_.push_back(plan->record);
    pool_.reap();
    if (config_.prefix_cache) {
        for (const RequestId request : plan->requests) {
            const RequestState state = machine_.request_state(request);
            if (state == RequestState::Prefill || state == RequestState::Decode) publish(request);
        }
    }
    for (const RequestId request : finished_) {
        require(machine_.apply_finish(request));
        emit(EventKind::Finished, request, machine_.known(request) - machine_.prompt(request));
        ++totals_.finished;
        leave(request);
    }
    land_abandoned();
}

// Throws BadResults that names the field, before anything has changed.
void Scheduler::check_results(const StepPlan& plan, std::span<const std::int32_t> tokens,
                              std::span<const std::int32_t> counts, std::span<const std::uint8_t> stop) const {
    const auto rows = static_cast<std::size_t>(plan.sampling_rows);
    const auto step = [&] {  // written only if something is wrong: landing allocates nothing
        return "step " + std::to_string(plan.step) + " has " + std::to_string(rows) + " sampling rows";
    };
    const auto whole = [&](const char* field, std::size_t size) {
        if (size != 0 && size != rows) {
            throw BadResults(step() + ", but " + field + " has " + std::to_string(size) + " entries");
        }
    };
    whole("counts", counts.size());
    whole("stop", stop.size());
    std::int64_t expected = counts.empty() ? plan.sampling_rows : 0;
    std::size_t at = 0;
    for (std::size_t row = 0; !counts.empty() && row < plan.outputs.size(); ++row) {
        if (plan.outputs[row] == 0) continue;
        if (counts[at] < 1 || counts[at] > plan.outputs[row]) {
            throw BadResults("counts[" + std::to_string(at) + "] is " + std::to_string(counts[at]) +
                             "; that row of step " + std::to_string(plan.step) + " yields 1 to " +
                             std::to_string(plan.outputs[row]) + " tokens");
        }
        expected += counts[at++];
    }
    if (static_cast<std::int64_t>(tokens.size()) != expected) {
        throw BadResults(step() +
                         (counts.empty() ? "" : ", which yield " + std::to_string(expected) + " tokens by counts") +
                         ", but tokens has " + std::to_string(tokens.size()) + " entries");
    }
    if (const auto bad = first_negative(tokens); bad < tokens.size()) {
        throw BadResults("tokens[" + std::to_string(bad) + "] is " + std::to_string(tokens[bad]) +
                         "; token ids must not be negative");
    }
}

void Scheduler::land_rows(const StepPlan& plan, std::span<const std::int32_t> tokens,
                          std::span<const std::int32_t> counts, std::span<const std::uint8_t> stop) {
    std::size_t sampled = 0;
    std::size_t next = 0;
    for (std::size_t row = 0; row < plan.requests.size(); ++row) {
        const RequestId request = plan.requests[row];
        const bool samples = plan.outputs[row] != 0;
        const std::size_t at = sampled;
        sampled += samples ? 1 : 0;
        const std::int64_t count = !samples ? 0 : counts.empty() ? 1 : counts[at];
        const auto given = tokens.subspan(next, static_cast<std::size_t>(count));
        next += given.size();
        const RequestState state = machine_.request_state(request);
        if (state != RequestState::Prefill && state != RequestState::Decode) {
            require(machine_.apply_drop_row(plan.record, request));
            if (machine_.request_state(request) == RequestState::Finished && machine_.pending(request) == 0)
                recycle(request);
            continue;
        }
        require(machine_.apply_land_row(plan.record, request, count));
        if (!samples) continue;
        Record& record = records_[request];
        if (!record.hashed) {
            for (const std::int32_t token : given) record.tokens.push_back(record.last_token = token);
        }
        totals_.output_tokens += count;
        totals_.accepted_draft_tokens += count - 1;
        if (machine_.known(request) == machine_.prompt(request) + 1) emit(EventKind::FirstToken, request, 1);
        const bool stopped = !stop.empty() && stop[at] != 0;
        if (stopped || machine_.known(request) == machine_.limit(request)) finished_.push_back(request);
    }
}

void Scheduler::extend_hashes(Record& record) {
    const auto page = static_cast<std::size_t>(config_.block_size);
    PageHash hash = record.pages.empty() ? PageHasher::kEmpty : record.pages.back();
    for (std::size_t end = (record.pages.size() + 1) * page; end <= record.tokens.size(); end += page) {
        hash = hasher_.extend(hash, record.tokens.data() + (end - page));
        record.pages.push_back(hash);
    }
}

void Scheduler::publish(RequestId request) {
    Record& record = records_[request];
    if (machine_.computed(request) < (record.pages_offered + 1) * config_.block_size) return;
    const std::int64_t complete = machine_.computed(request) / config_.block_size;
    if (!record.hashed) extend_hashes(record);
    const std::int64_t end = std::min(complete, static_cast<std::int64_t>(record.pages.size()));
    const auto& table = machine_.tables().of(request);
    withdraw(record, end);
    for (; record.pages_offered < end; ++record.pages_offered) {
        const BlockId block = table[record.pages_offered];
        const BlockId parent = record.pages_offered == 0 ? block : table[record.pages_offered - 1];
        const PageHash& prefix = record.pages[record.pages_offered];
        // A page that another request has published meanwhile stays private here and is freed with the request, and so
        // does what follows it: the pages that others find may continue only what its holder keeps in place.
        const bool reachable = parent == block || machine_.block_state(parent) == BlockState::Shared;
        if (!reachable || machine_.block_state(block) != BlockState::Owned || pool_.find(prefix) != kNoBlock) continue;
        require(machine_.apply_publish(request, block, parent, name_of(prefix)));
        pool_.index(block, prefix);
        emit_page(EventKind::KvStored, record.pages_offered, prefix);
    }
}

// A finished or aborted request gives everything back; its record stays while a step in flight mentions it.
void Scheduler::leave(RequestId request) {
    stop_running(request);
    release_blocks(request);
    require(machine_.apply_close(request));
    by_id_.erase(records_[request].request_id);
    if (machine_.pending(request) == 0) recycle(request);
}

void Scheduler::recycle(RequestId request) {
    require(machine_.apply_recycle(request));
    if (records_[request].slot >= 0) free_slots_.push_back(records_[request].slot);
    records_[request] = Record{};
    if (!drafts_.empty()) drafts_[request] = {};
    unused_.push_back(request);
}

void Scheduler::emit(EventKind kind, RequestId request, std::int64_t value) {
    events_.push_back({kind, records_[request].request_id, value});
}

void Scheduler::emit_page(EventKind kind, std::int64_t page, const PageHash& prefix) {
    if (config_.kv_events) events_.push_back({kind, page, static_cast<std::int64_t>(prefix.low)});
}

std::vector<TraceRecord> Scheduler::take_trace() {
    return trace_ == nullptr ? std::vector<TraceRecord>{} : trace_->drain();
}

Stats Scheduler::stats() const {
    Stats stats = totals_;
    stats.num_blocks = config_.num_blocks;
    stats.free_blocks = machine_.free();
    stats.cached_blocks = machine_.cached();
    stats.held_blocks = machine_.held();
    stats.waiting = static_cast<std::int64_t>(waiting_.size());
    stats.running = static_cast<std::int64_t>(running_.size());
    stats.steps_in_flight = static_cast<std::int64_t>(in_flight_.size());
    stats.live_requests = static_cast<std::int64_t>(records_.size() - unused_.size());
    stats.evictions = static_cast<std::int64_t>(pool_.evictions());
    stats.num_host_blocks = config_.num_host_blocks;
    stats.host_used_blocks = machine_.used_pages();
    stats.copies_in_flight = host_.in_flight();
    stats.spills = host_.copies(CopyKind::Spill);
    stats.fetches = host_.copies(CopyKind::Fetch);
    return stats;
}

void Scheduler::check() const {
    machine_.recheck();
    pool_.check();
    host_.check();
    const auto expect = [](bool condition, const std::string& what) {
        if (!condition) throw InvariantViolated("scheduler: " + what);
    };
    std::vector<std::int64_t> refs(static_cast<std::size_t>(config_.num_blocks), 0);
    for (RequestId request = 0; request < machine_.request_count(); ++request) {
        const auto& table = machine_.tables().of(request);
        expect(static_cast<std::int64_t>(table.size()) == machine_.blocks(request),
               "a block table and its count differ");
        for (const BlockId block : table) ++refs[block];
    }
    std::array<std::int64_t, 6> states{};
    for (BlockId block = 0; block < config_.num_blocks; ++block) {
        expect(refs[block] == machine_.refs(block), "reference count of block " + std::to_string(block) + " is " +
                                                        std::to_string(machine_.refs(block)) + ", holders are " +
                                                        std::to_string(refs[block]));
        ++states[static_cast<std::size_t>(machine_.block_state(block))];
    }
    expect(states[static_cast<std::size_t>(BlockState::Free)] == machine_.free(), "the count of free blocks is wrong");
    expect(states[static_cast<std::size_t>(BlockState::Cached)] == machine_.cached(),
           "the count of cached blocks is wrong");
    for (std::size_t at = 0; at < waiting_.size(); ++at) {
        expect(machine_.request_state(waiting_[at]) == RequestState::Waiting,
               "a request in the waiting line does not wait");
    }
    const auto guarded =
        std::count_if(running_.begin(), running_.end(), [this](RequestId r) { return is_protected(r); });
    expect(guarded == protected_, "running requests that must not be retracted are counted wrongly");
    expect(totals_.most_retractions <= config_.max_retractions, "a request was retracted too often");
    for (std::size_t i = 1; i < running_.size(); ++i) {
        expect(machine_.arrival(running_[i - 1]) < machine_.arrival(running_[i]),
               "running requests are not in order of arrival");
    }
}

}  // namespace tokenspeed
