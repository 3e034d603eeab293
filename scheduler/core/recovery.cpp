// What happens when the machine refuses a proposal. A refusal changes nothing, so the state is sound; what the planner
// keeps beside it may be half-way, and the request that it acted for cannot go on. So that one ends, the lists are made
// again from the machine's state, and the others are planned.
#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

#include "scheduler/core/contract/errors.h"
#include "scheduler/core/scheduler.h"

namespace tokenspeed {

void Scheduler::recover(Guard refused) {
    const RequestId acting = round_.acting;
    ++totals_.refusals;
    if (refusals_.size() < kMostRefusals) {
        const std::int64_t request_id = acting == kNone ? -1 : records_[acting].request_id;
        refusals_.push_back({machine_.opened(), request_id, static_cast<std::int64_t>(refused)});
    }
    if (acting == kNone) throw GuardRefused(refused);  // nothing tells who could be given up
    restore_lists();
    give_up(acting, refused);
    // A victim whose blocks could not all be taken back cannot run again either.
    for (RequestId request = 0; request < machine_.request_count(); ++request) {
        if (machine_.request_state(request) == RequestState::Retracting) give_up(request, refused);
    }
    restore_lists();
}

void Scheduler::give_up(RequestId request, Guard refused) {
    const bool has_row = builder_.is_open() && machine_.in_step(builder_.step(), request);
    if (has_row && std::ranges::count(builder_.plan().requests, request) == 0) builder_.abandon(request);
    waiting_.leave(request);
    require(machine_.apply_abort(request));
    emit(EventKind::Failed, request, static_cast<std::int64_t>(refused));
    ++totals_.aborted;
    leave(request);
}

void Scheduler::drop_abandoned(const StepPlan& plan) {
    for (const RequestId request : plan.abandoned) {
        require(machine_.apply_drop_row(plan.record, request));
        if (machine_.request_state(request) == RequestState::Finished && machine_.pending(request) == 0) {
            recycle(request);
        }
    }
}

// A step that has only abandoned rows is not executed: it lands when those before it have landed.
void Scheduler::launch_abandoned() {
    require(machine_.apply_launch(builder_.step()));
    in_flight_.push_back(builder_.finish());
    land_abandoned();
}

void Scheduler::land_abandoned() {
    while (!in_flight_.empty() && in_flight_.front()->tokens == 0) {
        const std::shared_ptr<StepPlan> plan = in_flight_.front();
        in_flight_.erase(in_flight_.begin());
        require(machine_.apply_device_done(plan->record));
        require(machine_.apply_observe(plan->record));
        drop_abandoned(*plan);
        require(machine_.apply_retire(plan->record));
        idle_steps_.push_back(plan->record);
        pool_.reap();
    }
}

// Lists and indices from the machine's state, whatever was half-way.
void Scheduler::restore_lists() {
    pool_.restore();
    host_.restore();
    std::erase_if(running_, [this](RequestId r) {
        const RequestState state = machine_.request_state(r);
        return state != RequestState::Prefill && state != RequestState::Decode;
    });
    protected_ = std::ranges::count_if(running_, [this](RequestId r) { return is_protected(r); });
    std::vector<bool> used(static_cast<std::size_t>(config_.max_running), false);
    for (const Record& record : records_) {
        if (record.slot >= 0) used[static_cast<std::size_t>(record.slot)] = true;
    }
    free_slots_.clear();
    for (std::int32_t slot = config_.max_running - 1; slot >= 0; --slot) {
        if (!used[static_cast<std::size_t>(slot)]) free_slots_.push_back(slot);
    }
}

}  // namespace tokenspeed
