// Identifiers of the specification's individuals, and the record of one transition.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace tokenspeed {

using RequestId = std::int32_t;
using BlockId = std::int32_t;
using StepId = std::int32_t;
using HostId = std::int32_t;
using CopyId = std::int32_t;

inline constexpr std::int32_t kNone = -1;
inline constexpr BlockId kNoBlock = kNone;

// One transition that was taken, with its arguments in the order of the specification.
struct TraceEvent {
    static constexpr int kMaxArguments = 4;

    TraceEvent(std::int32_t transition_number, std::initializer_list<std::int64_t> given)
        : transition(transition_number) {
        for (const std::int64_t value : given) arguments[count++] = static_cast<std::int32_t>(value);
    }

    std::int32_t transition;
    std::int32_t count = 0;
    std::int32_t arguments[kMaxArguments] = {0, 0, 0, 0};
};

}  // namespace tokenspeed
