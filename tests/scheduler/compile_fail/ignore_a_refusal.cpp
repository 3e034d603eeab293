// reason: nodiscard
#include "generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, BlockId block) {
    machine.apply_evict(block);  // WRONG
}
