// reason: nodiscard
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, BlockHandle<BlockState::Cached> block, BlockId parent) {
    std::move(block).evict(machine, parent);  // WRONG
}
