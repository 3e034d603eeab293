// How long a step takes on the device, in the same arithmetic as the cost models in Python: the same numbers to the
// bit.
#pragma once

#include <cstdint>

#include "scheduler/core/contract/step_plan.h"

namespace tokenspeed::simulator {

class StepCost {
  public:
    virtual ~StepCost() = default;
    // Device time of one step, nanoseconds.
    virtual std::int64_t step_ns(const StepPlan& plan) const = 0;
};

// `cost/roofline.py`, whose fields these are.
struct Roofline final : StepCost {
    double dense_flops_per_token = 0, dense_bytes = 0;
    std::int64_t experts = 0;
    double expert_miss_log = 0, expert_flops_per_token = 0, expert_bytes = 0, expert_bandwidth = 1;
    double head_flops_per_row = 0, head_bytes = 0;
    double matmul_flops = 1, head_flops = 1, attention_flops = 1;
    double decode_flops_per_pair = 0, prefill_flops_per_pair = 0, expand_flops_per_context = 0;
    double kv_bytes_per_token = 0, bandwidth = 1;
    double all_reduce_latency_s = 0, all_reduce_s_per_token = 0, overhead_s = 0;

    std::int64_t step_ns(const StepPlan& plan) const override;
};

}  // namespace tokenspeed::simulator
