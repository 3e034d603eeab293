// reason: discards qualifiers|is not an rvalue|expects an rvalue
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, BlockHandle<BlockState::Cached> block, BlockId parent) {
    (void)block.evict(machine, parent);  // WRONG
}
