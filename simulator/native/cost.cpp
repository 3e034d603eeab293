#include "simulator/native/cost.h"

#include <cmath>
#include <cstddef>

namespace tokenspeed::simulator {

namespace {

double longer(double compute, double memory) {
    return compute > memory ? compute : memory;
}

}  // namespace

std::int64_t Roofline::step_ns(const StepPlan& plan) const {
    const auto tokens = static_cast<double>(plan.tokens);
    const auto rows = static_cast<std::int64_t>(plan.start.size());
    double seconds = overhead_s + all_reduce_latency_s + tokens * all_reduce_s_per_token;
    seconds += longer(tokens * dense_flops_per_token / matmul_flops, dense_bytes / bandwidth);
    if (experts != 0) {
        const double hit = static_cast<double>(experts) * (1.0 - std::exp(tokens * expert_miss_log));
        seconds += longer(tokens * expert_flops_per_token / matmul_flops, hit * expert_bytes / expert_bandwidth);
    }
    seconds += longer(static_cast<double>(rows) * head_flops_per_row / head_flops, head_bytes / bandwidth);
    std::int64_t decode_context = plan.context_tokens;
    if (plan.tokens != rows) {
        double flops = 0.0;
        std::int64_t contexts = 0;
        for (std::size_t row = 0; row < plan.start.size(); ++row) {
            const std::int64_t start = plan.start[row], count = plan.num_tokens[row];
            if (count <= 1) continue;
            const std::int64_t context = start + count;
            const auto pairs = static_cast<double>(count * start + count * (count + 1) / 2);
            const double expanded =
                pairs * prefill_flops_per_pair + static_cast<double>(context) * expand_flops_per_context;
            const double absorbed = pairs * decode_flops_per_pair;
            flops += expanded < absorbed ? expanded : absorbed;
            contexts += context;
        }
        decode_context -= contexts;
        seconds += longer(flops / attention_flops, static_cast<double>(contexts) * kv_bytes_per_token / bandwidth);
    }
    const auto context = static_cast<double>(decode_context);
    seconds += longer(context * decode_flops_per_pair / attention_flops, context * kv_bytes_per_token / bandwidth);
    return static_cast<std::int64_t>(seconds * 1e9);
}

}  // namespace tokenspeed::simulator
