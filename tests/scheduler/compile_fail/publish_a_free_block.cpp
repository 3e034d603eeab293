// reason: no member named 'publish'
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, BlockHandle<BlockState::Free> block, RequestId request, BlockId parent) {
    (void)std::move(block).publish(machine, request, parent, 1);  // WRONG
}
