// reason: could not convert|no viable conversion|cannot convert
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, CopyHandle<CopyState::Idle> copy, BlockId block, HostHandle<HostState::Valid> page) {
    (void)std::move(copy).spill(machine, block, std::move(page));  // WRONG
}
