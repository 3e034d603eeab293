// reason: BlockHandle<.*Owned.*has no member named 'evict'|no member named 'evict'
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, BlockHandle<BlockState::Owned> block, BlockId parent) {
    (void)std::move(block).evict(machine, parent);  // WRONG
}
