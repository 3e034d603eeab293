// What the next step executes. One pass over the running requests by age, then the waiting line.
//
// Running requests are served by arrival. Every one that decodes gets its token before any budget goes to prompts that
// come after it; prompts are cut into chunks.
#include <algorithm>
#include <cstddef>
#include <iterator>
#include <memory>
#include <numeric>
#include <utility>

#include "scheduler/core/contract/errors.h"
#include "scheduler/core/scheduler.h"

namespace tokenspeed {

std::shared_ptr<const StepPlan> Scheduler::plan() {
    refuse_while_deciding("plan");
    if (idle_steps_.empty() || (running_.empty() && waiting_.empty())) return nullptr;
    budget_ = config_.max_step_tokens;
    promised_blocks_ = 0;
    short_ = false;
    unmet_ = 0;
    spills_left_ = config_.spill_ahead();
    plan_running();
    plan_waiting();
    if (host_.enabled()) spill_ahead();
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
    // Retraction removes younger requests, which come behind the one that is being planned.
    for (std::size_t i = 0; i < running_.size(); ++i) {
        const RequestId request = running_[i];
        const bool decodes = machine_.request_state(request) == RequestState::Decode;
        decodes_to_come_ -= decodes ? 1 : 0;
        if (request == doomed_ && machine_.arrival(request) == doomed_arrival_) {
            if (short_) continue;
            doomed_ = kNone;  // the memory has come from elsewhere
        }
        if (short_ && must_give_way(request)) continue;
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
    if (machine_.planned(request) + 1 >= machine_.limit(request) || awaits_drafts(request)) return;
    if (machine_.planned(request) == machine_.capacity(request) && !grow(request)) return;
    const std::int64_t drafts = drafts_.empty() ? 0 : draft_tokens(request);
    open_row(request);
    require(machine_.apply_decode(open_->record, request, 1 + drafts));
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

// A decode row that ends in drafts.
void Scheduler::append_drafts(StepPlan& plan, RequestId request, std::int64_t start, std::int64_t tokens) {
    const std::vector<std::int32_t>& drafts = drafts_[request].tokens;
    append_tokens(plan, records_[request], start, 1);
    plan.input_ids.insert(plan.input_ids.end(), drafts.begin(), drafts.begin() + tokens - 1);
    for (std::int64_t at = 1; at < tokens; ++at) plan.positions.push_back(static_cast<std::int32_t>(start + at));
}

// The row is complete: describe it to the runner.
void Scheduler::close_row(RequestId request) {
    StepPlan& plan = *open_;
    Record& record = records_[request];
    const std::int64_t tokens = machine_.row_tokens(plan.record, request);
    const std::int64_t start = machine_.planned(request) - tokens;
    const std::int64_t outputs = machine_.row_outputs(plan.record, request);
    plan.requests.push_back(request);
    plan.request_ids.push_back(record.request_id);
    plan.slots.push_back(record.slot);
    plan.start.push_back(static_cast<std::int32_t>(start));
    plan.num_tokens.push_back(static_cast<std::int32_t>(tokens));
    plan.outputs.push_back(static_cast<std::int32_t>(outputs));
    plan.tokens += tokens;
    plan.sampling_rows += outputs > 0 ? 1 : 0;
    plan.context_tokens += start + tokens;
    plan.attention_pairs += tokens * start + tokens * (tokens + 1) / 2;
    budget_ -= tokens;
    if (record.hashed) {
        plan.has_token_ids = false;
    } else if (outputs > 1) {
        append_drafts(plan, request, start, tokens);
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
