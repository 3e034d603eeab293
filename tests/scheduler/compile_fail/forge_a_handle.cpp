// reason: is private within this context|calling a private constructor
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(BlockId id) {
    BlockHandle<BlockState::Owned> forged(id);  // WRONG
}
