// What one call of `plan` counts with; made anew for each.
#pragma once

#include <cstdint>

#include "scheduler/core/contract/config.h"
#include "scheduler/core/state/ids.h"

namespace tokenspeed {

struct Round {
    Round() = default;
    explicit Round(const SchedulerConfig& config) : budget(config.max_step_tokens), spills_left(config.spill_ahead()) {}

    std::int64_t budget = 0;           // tokens that may still join the step
    std::int64_t decodes_to_come = 0;  // requests behind the one being planned that decode: one token each is theirs
    std::int64_t promised_blocks = 0;  // that those planned or passed over so far will want soon
    std::int64_t spills_left = 0;      // copies to the host that may still begin to make room
    std::int64_t unmet = 0;            // blocks that were asked for and will come without anybody making room
    bool short_of_memory = false;      // somebody needed a block that is not there
    RequestId acting = kNone;          // on whose behalf transitions are proposed
};

}  // namespace tokenspeed
