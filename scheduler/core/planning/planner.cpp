// What the next step executes. One pass over the running requests by age, then the waiting line.
//
// Running requests are served by arrival. Every one that decodes gets its token before any budget goes to prompts that
// come after it; prompts are cut into chunks.
#include <algorithm>
#include <cstddef>
#include <memory>

#include "scheduler/core/contract/errors.h"
#include "scheduler/core/scheduler.h"

namespace tokenspeed {

std::shared_ptr<const StepPlan> Scheduler::plan() {
    refuse_while_deciding("plan");
    if (idle_steps_.empty() || (running_.empty() && waiting_.empty())) return nullptr;
    for (;;) {
        round_ = Round(config_);
        try {
            propose();
        } catch (const GuardRefused& refusal) {  // a defect of this planner: who it was for ends, the others go on
            recover(refusal.guard());
            continue;
        }
        if (!builder_.is_open()) return nullptr;
        if (builder_.plan().tokens > 0) break;
        if (builder_.plan().abandoned.empty()) return nullptr;
        launch_abandoned();
        if (!in_flight_.empty() || idle_steps_.empty()) return nullptr;
    }
    require(machine_.apply_launch(builder_.step()));
    ++totals_.steps;
    totals_.scheduled_tokens += builder_.plan().tokens;
    in_flight_.push_back(builder_.finish());
    return in_flight_.back();
}

void Scheduler::propose() {
    if (builder_.is_open()) round_.budget -= builder_.plan().tokens;
    plan_running();
    plan_waiting();
    round_.acting = kNone;
    if (host_.enabled()) spill_ahead();
}

void Scheduler::plan_running() {
    round_.decodes_to_come = std::count_if(running_.begin(), running_.end(), [this](RequestId request) {
        return machine_.request_state(request) == RequestState::Decode;
    });
    // Retraction removes younger requests, which come behind the one that is being planned.
    for (std::size_t i = 0; i < running_.size(); ++i) {
        const RequestId request = running_[i];
        round_.acting = request;
        if (builder_.is_open() && machine_.in_step(builder_.step(), request)) {  // before a refusal
            promise(request);
            continue;
        }
        const bool decodes = machine_.request_state(request) == RequestState::Decode;
        round_.decodes_to_come -= decodes ? 1 : 0;
        if (request == doomed_ && machine_.arrival(request) == doomed_arrival_) {
            if (round_.short_of_memory) continue;
            doomed_ = kNone;  // the memory has come from elsewhere
        }
        if (round_.short_of_memory && must_give_way(request)) continue;
        if (decodes) {
            plan_decode(request);
        } else {
            plan_prefill(request, round_.budget - round_.decodes_to_come);
        }
        promise(request);
    }
}

// Blocks that a running request will want soon: the rest of its prompt and one more. New requests must leave them.
void Scheduler::promise(RequestId request) {
    const std::int64_t missing = std::max<std::int64_t>(0, machine_.known(request) - machine_.capacity(request));
    round_.promised_blocks += (missing + config_.block_size - 1) / config_.block_size + 1;
}

void Scheduler::plan_decode(RequestId request) {
    if (machine_.planned(request) + 1 >= machine_.limit(request) || awaits_drafts(request)) return;
    if (machine_.planned(request) == machine_.capacity(request) && !grow(request)) return;
    const std::int64_t drafts = drafts_.empty() ? 0 : draft_tokens(request);
    require(machine_.apply_decode(open_step(), request, 1 + drafts));
    close_row(request, true);
}

void Scheduler::plan_prefill(RequestId request, std::int64_t budget) {
    const std::int64_t known = machine_.known(request);
    std::int64_t chunk = std::min(known - machine_.planned(request), budget);
    if (chunk <= 0) return;
    while (machine_.capacity(request) < machine_.planned(request) + chunk && grow(request)) {
    }
    chunk = std::min(chunk, machine_.capacity(request) - machine_.planned(request));
    if (chunk <= 0) return;
    const StepId step = open_step();
    if (machine_.planned(request) + chunk == known) {
        require(machine_.apply_prefill_last(step, request, chunk));
    } else {
        require(machine_.apply_prefill(step, request, chunk));
    }
    close_row(request, false);
}

StepId Scheduler::open_step() {
    if (!builder_.is_open()) {
        const StepId step = idle_steps_.back();
        require(machine_.apply_open_step(step));
        idle_steps_.pop_back();
        builder_.open(step, machine_.number(step));
    }
    return builder_.step();
}

// The row is complete: describe it to the runner.
void Scheduler::close_row(RequestId request, bool decodes) {
    Record& record = records_[request];
    const std::int64_t tokens = machine_.row_tokens(builder_.step(), request);
    const std::int64_t start = machine_.planned(request) - tokens;
    const std::int64_t outputs = machine_.row_outputs(builder_.step(), request);
    builder_.add_row({request, record.request_id, record.slot, start, tokens, outputs, decodes});
    round_.budget -= tokens;
    const std::int64_t drafts = std::max<std::int64_t>(outputs - 1, 0);
    if (record.hashed) {
        builder_.add_hashed();
    } else {
        builder_.add_tokens(record.tokens, record.last_token, start, tokens - drafts);
        if (drafts > 0) {
            builder_.add_drafts({drafts_[request].tokens.data(), static_cast<std::size_t>(drafts)}, start + 1);
        }
    }
    builder_.add_entries(record.slot, machine_.tables().of(request), record.entries_sent);
}

}  // namespace tokenspeed
