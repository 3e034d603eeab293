#include "scheduler/core/planning/plan_builder.h"

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <numeric>
#include <utility>

namespace tokenspeed {

void PlanBuilder::open(StepId record, std::int64_t number) {
    plan_ = unused();
    plan_->clear();
    plan_->record = record;
    plan_->step = number;
}

// Buffers are reused unless the driver still holds the plan.
std::shared_ptr<StepPlan> PlanBuilder::unused() {
    const auto at = std::find_if(spare_.rbegin(), spare_.rend(),
                                 [](const std::shared_ptr<StepPlan>& plan) { return plan.use_count() == 1; });
    if (at != spare_.rend()) {
        std::shared_ptr<StepPlan> plan = std::move(*at);
        spare_.erase(std::next(at).base());
        return plan;
    }
    auto plan = std::make_shared<StepPlan>();
    plan->reserve(static_cast<std::size_t>(config_.max_running), static_cast<std::size_t>(config_.max_step_tokens));
    return plan;
}

void PlanBuilder::add_row(const Row& row) {
    StepPlan& plan = *plan_;
    plan.requests.push_back(row.request);
    plan.request_ids.push_back(row.request_id);
    plan.slots.push_back(row.slot);
    plan.start.push_back(static_cast<std::int32_t>(row.start));
    plan.num_tokens.push_back(static_cast<std::int32_t>(row.tokens));
    plan.outputs.push_back(static_cast<std::int32_t>(row.outputs));
    plan.tokens += row.tokens;
    plan.decode_rows += row.decodes ? 1 : 0;
    plan.sampling_rows += row.outputs > 0 ? 1 : 0;
    plan.context_tokens += row.start + row.tokens;
    plan.attention_pairs += row.tokens * row.start + row.tokens * (row.tokens + 1) / 2;
}

void PlanBuilder::add_tokens(const TokenArray& text, std::int32_t last, std::int64_t start, std::int64_t tokens) {
    StepPlan& plan = *plan_;
    const auto known = static_cast<std::int64_t>(text.size());
    if (tokens == 1) {  // the last token lies in the record, which is at hand
        plan.input_ids.push_back(start >= known ? -1 : start == known - 1 ? last : text[start]);
        plan.positions.push_back(static_cast<std::int32_t>(start));
        return;
    }
    const auto from = text.begin() + std::min(start, known);
    const auto to = text.begin() + std::min(start + tokens, known);
    plan.input_ids.insert(plan.input_ids.end(), from, to);
    plan.input_ids.insert(plan.input_ids.end(), static_cast<std::size_t>(tokens - (to - from)), -1);
    const std::size_t before = plan.positions.size();
    plan.positions.resize(before + static_cast<std::size_t>(tokens));
    std::iota(plan.positions.begin() + static_cast<std::ptrdiff_t>(before), plan.positions.end(),
              static_cast<std::int32_t>(start));
}

void PlanBuilder::add_drafts(std::span<const std::int32_t> drafts, std::int64_t start) {
    plan_->input_ids.insert(plan_->input_ids.end(), drafts.begin(), drafts.end());
    for (std::size_t i = 0; i < drafts.size(); ++i) {
        plan_->positions.push_back(static_cast<std::int32_t>(start + static_cast<std::int64_t>(i)));
    }
}

void PlanBuilder::add_entries(std::int32_t slot, const std::vector<BlockId>& table, std::int64_t& sent) {
    for (; sent < static_cast<std::int64_t>(table.size()); ++sent) {
        plan_->table_slots.push_back(slot);
        plan_->table_index.push_back(static_cast<std::int32_t>(sent));
        plan_->table_blocks.push_back(table[sent]);
    }
}

std::shared_ptr<StepPlan> PlanBuilder::finish() {
    if (!plan_->has_token_ids) {
        plan_->input_ids.clear();
        plan_->positions.clear();
    }
    return std::exchange(plan_, nullptr);
}

void PlanBuilder::landed(std::shared_ptr<StepPlan> plan) {
    // At most as many as can be planned at once: what the driver holds beyond that is its own.
    if (spare_.size() > static_cast<std::size_t>(config_.overlap_depth) + 1) spare_.erase(spare_.begin());
    spare_.push_back(std::move(plan));
}

}  // namespace tokenspeed
