// reason: nodiscard
#include "generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, BlockHandle<BlockState::Cached> block) {
    std::move(block).evict(machine);  // WRONG
}
