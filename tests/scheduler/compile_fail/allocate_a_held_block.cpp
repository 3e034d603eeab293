// reason: no member named 'allocate'
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, BlockHandle<BlockState::Owned> block, RequestId request) {
    (void)std::move(block).allocate(machine, request);  // WRONG
}
