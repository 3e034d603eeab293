// What one step executes: contiguous arrays that a model runner uses as they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "scheduler/core/state/ids.h"

namespace tokenspeed {

struct StepPlan {
    std::int64_t step = 0;
    StepId record = 0;

    // One entry for each row.
    std::vector<std::int64_t> request_ids;
    std::vector<RequestId> requests;
    std::vector<std::int32_t> slots;
    std::vector<std::int32_t> start;
    std::vector<std::int32_t> num_tokens;
    std::vector<std::int32_t> outputs;  // most tokens that the row may yield: its last so many tokens are sampled from
    // One entry for each token; empty if a request of the step is known by hashes only.
    std::vector<std::int32_t> input_ids;
    std::vector<std::int32_t> positions;
    // Block-table deltas: table[slot][index] = block.
    std::vector<std::int32_t> table_slots;
    std::vector<std::int32_t> table_index;
    std::vector<std::int32_t> table_blocks;

    std::int64_t tokens = 0;
    std::int64_t decode_rows = 0;
    std::int64_t sampling_rows = 0;
    std::int64_t context_tokens = 0;
    std::int64_t attention_pairs = 0;
    bool has_token_ids = true;
    std::vector<RequestId> abandoned;  // requests with a row that is not executed; it goes when the step lands

    // Room for every decode step, so that those allocate nothing.
    void reserve(std::size_t rows, std::size_t step_tokens) {
        for (auto* column : {&slots, &start, &num_tokens, &outputs, &table_slots, &table_index, &table_blocks}) {
            column->reserve(rows);
        }
        request_ids.reserve(rows);
        requests.reserve(rows);
        input_ids.reserve(step_tokens);
        positions.reserve(step_tokens);
    }

    void clear() {
        for (auto* column : {&slots, &start, &num_tokens, &outputs, &input_ids, &positions, &table_slots, &table_index,
                             &table_blocks}) {
            column->clear();
        }
        request_ids.clear();
        requests.clear();
        abandoned.clear();
        tokens = decode_rows = sampling_rows = context_tokens = attention_pairs = 0;
        has_token_ids = true;
    }
};

}  // namespace tokenspeed
