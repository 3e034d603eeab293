// reason: could not convert|no viable conversion|cannot convert
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void needs_private(BlockHandle<BlockState::Owned> block);

void wrong(BlockHandle<BlockState::Cached> block) {
    needs_private(std::move(block));  // WRONG
}
