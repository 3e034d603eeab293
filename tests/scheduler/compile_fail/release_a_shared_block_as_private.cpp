// reason: no member named 'release_owned'
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, BlockHandle<BlockState::Shared> block, RequestId request) {
    (void)std::move(block).release_owned(machine, request);  // WRONG
}
