// reason: no member named 'reap'
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, BlockHandle<BlockState::Cached> block) {
    (void)std::move(block).reap(machine);  // WRONG
}
