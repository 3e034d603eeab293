// Capacities and limits of one replica.
#pragma once

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
    bool record_trace = false;
    std::int32_t trace_capacity = 1 << 18;  // records of 16 bytes

    // Throws std::invalid_argument that names the field, its value and what would work.
    void validate() const {
        at_least("num_blocks", num_blocks, 1);
        at_least("block_size", block_size, 1);
        at_least("max_running", max_running, 1);
        at_least("overlap_depth", overlap_depth, 0);
        at_least("trace_capacity", trace_capacity, 2);
        if (overlap_depth > kMaxOverlapDepth) {
            throw std::invalid_argument("overlap_depth is " + std::to_string(overlap_depth) + "; it must be at most " +
                                        std::to_string(kMaxOverlapDepth));
        }
        if (max_step_tokens < max_running) {
            throw std::invalid_argument(
                "max_step_tokens is " + std::to_string(max_step_tokens) + " and max_running is " +
                std::to_string(max_running) +
                "; max_step_tokens must be at least max_running, so that every running request can decode");
        }
    }

    static constexpr std::int32_t kMaxOverlapDepth = 64;

  private:
    static void at_least(const char* field, std::int32_t value, std::int32_t minimum) {
        if (value < minimum) {
            throw std::invalid_argument(std::string(field) + " is " + std::to_string(value) + "; it must be at least " +
                                        std::to_string(minimum));
        }
    }
};

}  // namespace tokenspeed
