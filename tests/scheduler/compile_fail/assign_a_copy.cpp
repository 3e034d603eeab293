// reason: use of deleted function|overload resolution selected deleted operator|implicitly deleted
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(BlockHandle<BlockState::Owned>& one, const BlockHandle<BlockState::Owned>& other) {
    one = other;  // WRONG
}
