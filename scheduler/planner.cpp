// What the next step executes. One pass over the running requests by age, then the waiting line.
//
// First come, first served by arrival. Every running request that decodes gets its token before any budget goes to
// prompts that come after it; prompts are cut into chunks. Under memory pressure the youngest running request makes
// room.
#include <algorithm>
#include <cstddef>
#include <iterator>
#include <memory>
#include <numeric>
#include <utility>

#include "errors.h"
#include "scheduler.h"

namespace tokenspeed {

std::shared_ptr<const StepPlan> Scheduler::plan() {
    if (idle_steps_.empty() || (running_.empty() && waiting_.empty())) return nullptr;
    budget_ = config_.max_step_tokens;
    promised_blocks_ = 0;
    held_back_ = arrivals_ + 1;
    plan_running();
    plan_waiting();
    if (open_ == nullptr) return nullptr;
    require(machine_.apply_launch(open_->record));
    if (!open_->has_token_ids) {
        open_->input_ids.clear();
        open_->positions.clear();
    }
    ++totals_.steps;
    totals_.scheduled_tokens += open_->tokens;
    in_flight_.push_back(std::move(open_));
    open_ = nullptr;
    return in_flight_.back();
}

void Scheduler::plan_running() {
    decodes_to_come_ = std::count_if(running_.begin(), running_.end(), [this](RequestId request) {
        return machine_.request_state(request) == RequestState::Decode;
    });
    // Retraction removes from the end, behind the request that is being planned.
    for (std::size_t i = 0; i < running_.size(); ++i) {
        const RequestId request = running_[i];
        const bool decodes = machine_.request_state(request) == RequestState::Decode;
        decodes_to_come_ -= decodes ? 1 : 0;
        if (machine_.arrival(request) >= held_back_) continue;
        if (decodes) {
            plan_decode(request);
        } else {
            plan_prefill(request, budget_ - decodes_to_come_);
        }
        promise(request);
    }
}

// Blocks that a running request will want soon: the rest of its prompt and one more. New requests must leave them.
void Scheduler::promise(RequestId request) {
    const std::int64_t missing = std::max<std::int64_t>(0, machine_.known(request) - machine_.capacity(request));
    promised_blocks_ += (missing + config_.block_size - 1) / config_.block_size + 1;
}

void Scheduler::plan_decode(RequestId request) {
    if (machine_.planned(request) + 1 >= machine_.limit(request)) return;
    if (machine_.planned(request) == machine_.capacity(request) && !grow(request)) return;
    open_row(request);
    require(machine_.apply_decode(open_->record, request, 1));
    ++open_->decode_rows;
    close_row(request);
}

void Scheduler::plan_prefill(RequestId request, std::int64_t budget) {
    const std::int64_t known = machine_.known(request);
    std::int64_t chunk = std::min(known - machine_.planned(request), budget);
    if (chunk <= 0) return;
    while (machine_.capacity(request) < machine_.planned(request) + chunk && grow(request)) {
    }
    chunk = std::min(chunk, machine_.capacity(request) - machine_.planned(request));
    if (chunk <= 0) return;
    open_row(request);
    if (machine_.planned(request) + chunk == known) {
        require(machine_.apply_prefill_last(open_->record, request, chunk));
    } else {
        require(machine_.apply_prefill(open_->record, request, chunk));
    }
    close_row(request);
}

// One more block at the end of the request's table. Under pressure the youngest running request that has blocks is
// retracted; if a step in flight still has it, it is held back so that it can be retracted after that step.
bool Scheduler::grow(RequestId request) {
    for (;;) {
        const BlockId block = pool_.take();
        if (block != kNoBlock) {
            require(machine_.apply_allocate(request, block));
            return true;
        }
        const auto youngest =
            std::find_if(running_.rbegin(), running_.rend(), [this](RequestId r) { return machine_.blocks(r) > 0; });
        if (youngest == running_.rend()) return false;
        const RequestId victim = *youngest;
        if (machine_.arrival(victim) <= machine_.arrival(request)) return false;
        if (machine_.pending(victim) > 0 || machine_.known(victim) >= machine_.limit(victim)) {
            held_back_ = std::min(held_back_, machine_.arrival(victim));
            return false;
        }
        retract(victim, request);
    }
}

void Scheduler::retract(RequestId victim, RequestId beneficiary) {
    const std::int64_t dropped = machine_.planned(victim);
    decodes_to_come_ -= machine_.request_state(victim) == RequestState::Decode ? 1 : 0;
    require(machine_.apply_retract(victim, beneficiary));
    running_.erase(std::find(running_.begin(), running_.end(), victim));
    release_blocks(victim);
    require(machine_.apply_requeue(victim));
    Record& record = records_[victim];
    free_slots_.push_back(record.slot);
    record.slot = -1;
    record.pages_offered = record.pages_announced = 0;
    record.entries_sent = 0;
    const auto older = [this, victim](RequestId r) { return machine_.arrival(r) < machine_.arrival(victim); };
    waiting_.insert(std::find_if_not(waiting_.begin(), waiting_.end(), older), victim);
    ++totals_.retractions;
    emit(EventKind::Retracted, victim, dropped);
}

void Scheduler::plan_waiting() {
    while (!waiting_.empty() && budget_ > 0 && !free_slots_.empty()) {
        const RequestId request = waiting_.front();
        if (machine_.arrival(request) >= held_back_ || !admit(request)) return;
        plan_prefill(request, budget_);
        promise(request);
    }
}

// The head of the line runs if its whole prompt fits beside what running requests were promised. A request that is
// alone is always admitted: `submit` made sure that it fits the empty pool.
bool Scheduler::admit(RequestId request) {
    const std::int64_t available = machine_.free() + machine_.cached();
    const std::int64_t arrival = machine_.arrival(request);
    if (!running_.empty() && parked_.request == request && parked_.arrival == arrival &&
        parked_.version == pool_.version() && parked_.blocks_needed + promised_blocks_ > available) {
        return false;
    }
    Record& record = records_[request];
    const std::int64_t known = machine_.known(request);
    if (!record.hashed && config_.prefix_cache) extend_hashes(record);
    match_prefix(record, known);
    // Computing a prefix that a running request is computing already would cost the device more and be ready no sooner.
    if (being_computed(record)) return false;
    std::int64_t needed = (known + config_.block_size - 1) / config_.block_size + 1;
    for (const BlockId block : matched_) {
        if (machine_.block_state(block) == BlockState::Shared) --needed;
    }
    if (!running_.empty() && needed + promised_blocks_ > available) {
        parked_ = {request, arrival, pool_.version(), needed};
        return false;
    }
    for (std::size_t page = 0; page < matched_.size(); ++page) {
        const BlockId block = matched_[page];
        const BlockId parent = matched_[page == 0 ? 0 : page - 1];
        const std::int64_t name = name_of(record.pages[page]);
        if (machine_.block_state(block) == BlockState::Cached) {
            require(machine_.apply_match_cached(request, block, parent, name));
            pool_.matched(block);
        } else {
            require(machine_.apply_match_shared(request, block, parent, name));
        }
    }
    const auto hits = static_cast<std::int64_t>(matched_.size());
    require(machine_.apply_admit(request));
    record.pages_offered = record.pages_announced = hits;
    announce(request);
    record.slot = free_slots_.back();
    free_slots_.pop_back();
    waiting_.pop_front();
    running_.push_back(request);
    totals_.prefix_query_tokens += known;
    totals_.prefix_hit_tokens += hits * config_.block_size;
    emit(EventKind::Admitted, request, hits * config_.block_size);
    return true;
}

// Look-ups that are on their way to the cache at once.
constexpr std::size_t kPrefetchDistance = 8;

// Finds the published blocks of the request's prefix, from the start; the last known token is always computed anew.
void Scheduler::match_prefix(const Record& record, std::int64_t known) {
    const auto most = std::min(record.pages.size(), static_cast<std::size_t>((known - 1) / config_.block_size));
    matched_.clear();
    while (matched_.size() < most) {
        pool_.prefetch(record.pages[std::min(matched_.size() + kPrefetchDistance, most - 1)]);
        const BlockId block = pool_.find(record.pages[matched_.size()]);
        if (block == kNoBlock) return;
        // Hashes that a driver made (submit_hashed) may name a page without what is in front of it.
        if (machine_.parent(block) != (matched_.empty() ? block : matched_.back())) return;
        matched_.push_back(block);
    }
}

// Whether a running request is computing the first page of this prefix that is not published yet.
bool Scheduler::being_computed(const Record& record) const {
    const std::size_t next = matched_.size();
    const auto whole = static_cast<std::size_t>((machine_.known(waiting_.front()) - 1) / config_.block_size);
    return next < std::min(record.pages.size(), whole) && computing_.find(record.pages[next]) != kNone;
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

StepPlan& Scheduler::open_plan() {
    if (open_ != nullptr) return *open_;
    const StepId step = idle_steps_.back();
    idle_steps_.pop_back();
    require(machine_.apply_open_step(step));
    open_ = unused_plan();
    open_->clear();
    open_->record = step;
    open_->step = machine_.number(step);
    return *open_;
}

// Buffers are reused unless the driver still holds the plan.
std::shared_ptr<StepPlan> Scheduler::unused_plan() {
    const auto unused = std::find_if(spare_plans_.rbegin(), spare_plans_.rend(),
                                     [](const std::shared_ptr<StepPlan>& plan) { return plan.use_count() == 1; });
    if (unused != spare_plans_.rend()) {
        std::shared_ptr<StepPlan> plan = std::move(*unused);
        spare_plans_.erase(std::next(unused).base());
        return plan;
    }
    auto plan = std::make_shared<StepPlan>();
    plan->reserve(static_cast<std::size_t>(config_.max_running), static_cast<std::size_t>(config_.max_step_tokens));
    return plan;
}

void Scheduler::open_row(RequestId request) {
    StepPlan& plan = open_plan();
    require(machine_.apply_add_row(plan.record, request));
}

void Scheduler::append_tokens(StepPlan& plan, const Record& record, std::int64_t start, std::int64_t tokens) {
    const auto known = static_cast<std::int64_t>(record.tokens.size());
    if (tokens == 1) {  // the last token lies in the record, which is at hand
        plan.input_ids.push_back(start >= known ? -1 : start == known - 1 ? record.last_token : record.tokens[start]);
        plan.positions.push_back(static_cast<std::int32_t>(start));
        return;
    }
    const auto from = record.tokens.begin() + std::min(start, known);
    const auto to = record.tokens.begin() + std::min(start + tokens, known);
    plan.input_ids.insert(plan.input_ids.end(), from, to);
    plan.input_ids.insert(plan.input_ids.end(), static_cast<std::size_t>(tokens - (to - from)), -1);
    const std::size_t before = plan.positions.size();
    plan.positions.resize(before + static_cast<std::size_t>(tokens));
    std::iota(plan.positions.begin() + static_cast<std::ptrdiff_t>(before), plan.positions.end(),
              static_cast<std::int32_t>(start));
}

// The row is complete: describe it to the runner.
void Scheduler::close_row(RequestId request) {
    StepPlan& plan = *open_;
    Record& record = records_[request];
    const std::int64_t tokens = machine_.row_tokens(plan.record, request);
    const std::int64_t start = machine_.planned(request) - tokens;
    const bool samples = machine_.row_outputs(plan.record, request) > 0;
    plan.requests.push_back(request);
    plan.request_ids.push_back(record.request_id);
    plan.slots.push_back(record.slot);
    plan.start.push_back(static_cast<std::int32_t>(start));
    plan.num_tokens.push_back(static_cast<std::int32_t>(tokens));
    plan.samples.push_back(samples ? 1 : 0);
    plan.tokens += tokens;
    plan.sampling_rows += samples ? 1 : 0;
    plan.context_tokens += start + tokens;
    plan.attention_pairs += tokens * start + tokens * (tokens + 1) / 2;
    budget_ -= tokens;
    if (record.hashed) {
        plan.has_token_ids = false;
    } else {
        append_tokens(plan, record, start, tokens);
    }
    const auto& table = machine_.tables().of(request);
    for (; record.entries_sent < static_cast<std::int64_t>(table.size()); ++record.entries_sent) {
        plan.table_slots.push_back(record.slot);
        plan.table_index.push_back(static_cast<std::int32_t>(record.entries_sent));
        plan.table_blocks.push_back(table[record.entries_sent]);
    }
}

}  // namespace tokenspeed
