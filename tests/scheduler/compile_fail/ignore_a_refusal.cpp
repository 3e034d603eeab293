// reason: nodiscard
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, BlockId block, BlockId parent) {
    machine.apply_evict(block, parent);  // WRONG
}
