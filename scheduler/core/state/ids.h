// Identifiers of the specification's individuals.
#pragma once

#include <cstdint>

namespace tokenspeed {

using RequestId = std::int32_t;
using BlockId = std::int32_t;
using StepId = std::int32_t;
using HostId = std::int32_t;
using CopyId = std::int32_t;

inline constexpr std::int32_t kNone = -1;
inline constexpr BlockId kNoBlock = kNone;

}  // namespace tokenspeed
