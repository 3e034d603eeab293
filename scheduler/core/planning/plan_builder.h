// The step that is being planned, row by row, in buffers that are used again.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "scheduler/core/contract/config.h"
#include "scheduler/core/contract/step_plan.h"
#include "scheduler/core/memory/staggered.h"

namespace tokenspeed {

class PlanBuilder {
  public:
    explicit PlanBuilder(const SchedulerConfig& config) : config_(config) {}

    bool is_open() const { return plan_ != nullptr; }
    // The step that is open; there must be one.
    const StepPlan& plan() const { return *plan_; }
    StepId step() const { return plan_->record; }

    void open(StepId record, std::int64_t number);
    struct Row {
        RequestId request;
        std::int64_t request_id;
        std::int32_t slot;
        std::int64_t start;  // position of its first token
        std::int64_t tokens;
        std::int64_t outputs;
        bool decodes;
    };
    void add_row(const Row& row);
    // Inputs of the row added last: `tokens` of a text from position `start`, -1 where it is not known yet. `last` is
    // the text's last token. Then drafts behind them.
    void add_tokens(const TokenArray& text, std::int32_t last, std::int64_t start, std::int64_t tokens);
    void add_drafts(std::span<const std::int32_t> drafts, std::int64_t start);
    // The text of the row added last is known to the driver only: the step has no token ids.
    void add_hashed() { plan_->has_token_ids = false; }
    // Entries of the block table that the runner does not have; `sent` are those that it has.
    void add_entries(std::int32_t slot, const std::vector<BlockId>& table, std::int64_t& sent);
    // A row that the machine opened will not be executed; its request is dropped when the step lands.
    void abandon(RequestId request) { plan_->abandoned.push_back(request); }

    // The step as it is to be executed; none is open then.
    std::shared_ptr<StepPlan> finish();
    // A step has landed: its buffers may be used again when the driver no longer holds them.
    void landed(std::shared_ptr<StepPlan> plan);

  private:
    std::shared_ptr<StepPlan> unused();

    SchedulerConfig config_;
    std::shared_ptr<StepPlan> plan_;
    std::vector<std::shared_ptr<StepPlan>> spare_;  // landed; the driver may still hold some
};

}  // namespace tokenspeed
