// reason: is private within this context|is a private member
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, BlockId block) {
    machine.block_[block].refs = 0;  // WRONG
}
