// reason: is private within this context|is a private member
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(BlockId id) {
    auto forged = HandleMaker::make<BlockHandle<BlockState::Owned>>(id);  // WRONG
}
