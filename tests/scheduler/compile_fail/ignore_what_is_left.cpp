// reason: nodiscard
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(BlockHandle<BlockState::Owned> block) {
    std::move(block).leave();  // WRONG
}
