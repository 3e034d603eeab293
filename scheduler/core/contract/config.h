// Capacities, limits and cost figures of one replica.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace tokenspeed {

struct SchedulerConfig {
    std::int32_t num_blocks = 0;
    std::int32_t block_size = 64;
    std::int32_t max_running = 256;
    std::int32_t max_step_tokens = 8192;
    std::int32_t overlap_depth = 1;
    bool prefix_cache = true;
    std::int32_t num_host_blocks = 0;  // pages of the host tier; 0: there is none
    // What decisions are weighed by. Tokens of KV that cross the link between device and host each second, one way.
    double host_copy_tokens_per_s = 1e6;
    // Tokens of prompts that the device computes each second, at the start of a text.
    double prefill_tokens_per_s = 2e4;
    // Context at which a prompt token costs twice as much as at the start of a text; 0: context costs nothing.
    double prefill_doubling_tokens = 0;
    std::int32_t max_retractions = 3;   // from then on a request is retracted no more
    std::int32_t max_draft_tokens = 0;  // most tokens that a driver may draft behind a request's last one
    bool kv_events = false;             // whether `events` tells which pages are stored and removed
    bool record_trace = false;
    std::int32_t trace_capacity = 1 << 18;  // records of 16 bytes

    // Calls f(name, pointer to member) for every field.
    template <class F>
    static void visit(F&& f) {
        f("num_blocks", &SchedulerConfig::num_blocks);
        f("block_size", &SchedulerConfig::block_size);
        f("max_running", &SchedulerConfig::max_running);
        f("max_step_tokens", &SchedulerConfig::max_step_tokens);
        f("overlap_depth", &SchedulerConfig::overlap_depth);
        f("prefix_cache", &SchedulerConfig::prefix_cache);
        f("num_host_blocks", &SchedulerConfig::num_host_blocks);
        f("host_copy_tokens_per_s", &SchedulerConfig::host_copy_tokens_per_s);
        f("prefill_tokens_per_s", &SchedulerConfig::prefill_tokens_per_s);
        f("prefill_doubling_tokens", &SchedulerConfig::prefill_doubling_tokens);
        f("max_retractions", &SchedulerConfig::max_retractions);
        f("max_draft_tokens", &SchedulerConfig::max_draft_tokens);
        f("kv_events", &SchedulerConfig::kv_events);
        f("record_trace", &SchedulerConfig::record_trace);
        f("trace_capacity", &SchedulerConfig::trace_capacity);
    }

    // Copies between device and host that may be under way at once.
    std::int32_t copy_records() const { return std::min({num_blocks, num_host_blocks, kMaxCopies}); }
    // Blocks that are copied to the host ahead of need, so that making room need not wait: those of two steps.
    std::int64_t spill_ahead() const {
        const std::int64_t steps = 2 * (static_cast<std::int64_t>(max_step_tokens) / block_size + 1);
        return std::max<std::int64_t>(1, std::min<std::int64_t>(steps, num_blocks / 4));
    }
    // Seconds that the device takes to compute `tokens` tokens, the first of them at position `start`.
    double recompute_s(std::int64_t start, std::int64_t tokens) const {
        const double n = static_cast<double>(tokens);
        const double context = static_cast<double>(start) + n / 2;
        const double factor = prefill_doubling_tokens > 0 ? 1 + context / prefill_doubling_tokens : 1;
        return n * factor / prefill_tokens_per_s;
    }
    // Seconds until `tokens` tokens have crossed the link.
    double copy_s(std::int64_t tokens) const { return static_cast<double>(tokens) / host_copy_tokens_per_s; }

    // Throws std::invalid_argument that names the field, its value and what would work.
    void validate() const {
        at_least("num_blocks", num_blocks, 1);
        at_least("block_size", block_size, 1);
        at_least("max_running", max_running, 1);
        at_least("overlap_depth", overlap_depth, 0);
        at_least("num_host_blocks", num_host_blocks, 0);
        at_least("max_retractions", max_retractions, 0);
        at_least("max_draft_tokens", max_draft_tokens, 0);
        at_least("trace_capacity", trace_capacity, 2);
        positive("host_copy_tokens_per_s", host_copy_tokens_per_s);
        positive("prefill_tokens_per_s", prefill_tokens_per_s);
        if (!(prefill_doubling_tokens >= 0)) {
            throw std::invalid_argument("prefill_doubling_tokens is " + std::to_string(prefill_doubling_tokens) +
                                        "; it must be at least 0");
        }
        if (overlap_depth > kMaxOverlapDepth) {
            throw std::invalid_argument("overlap_depth is " + std::to_string(overlap_depth) + "; it must be at most " +
                                        std::to_string(kMaxOverlapDepth));
        }
        if (max_draft_tokens > kMaxDraftTokens) {
            throw std::invalid_argument("max_draft_tokens is " + std::to_string(max_draft_tokens) +
                                        "; it must be at most " + std::to_string(kMaxDraftTokens));
        }
        if (max_step_tokens < max_running) {
            throw std::invalid_argument(
                "max_step_tokens is " + std::to_string(max_step_tokens) + " and max_running is " +
                std::to_string(max_running) +
                "; max_step_tokens must be at least max_running, so that every running request can decode");
        }
        if (num_host_blocks > 0 && !prefix_cache) {
            throw std::invalid_argument("num_host_blocks is " + std::to_string(num_host_blocks) +
                                        " but prefix_cache is off; the host tier finds pages by their prefix, so turn "
                                        "prefix_cache on or set num_host_blocks to 0");
        }
    }

    static constexpr std::int32_t kMaxOverlapDepth = 64;
    static constexpr std::int32_t kMaxCopies = 1024;
    static constexpr std::int32_t kMaxDraftTokens = 255;

  private:
    static void at_least(const char* field, std::int32_t value, std::int32_t minimum) {
        if (value < minimum) {
            throw std::invalid_argument(std::string(field) + " is " + std::to_string(value) + "; it must be at least " +
                                        std::to_string(minimum));
        }
    }
    static void positive(const char* field, double value) {
        if (!(value > 0)) {
            throw std::invalid_argument(std::string(field) + " is " + std::to_string(value) + "; it must be above 0");
        }
    }
};

}  // namespace tokenspeed
