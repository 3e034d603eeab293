// reason: use of deleted function|deleted (copy )?constructor
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(const BlockHandle<BlockState::Owned>& block) {
    BlockHandle<BlockState::Owned> second = block;  // WRONG
}
