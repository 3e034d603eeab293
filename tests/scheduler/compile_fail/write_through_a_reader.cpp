// reason: lvalue required|expression is not assignable|using (temporary|rvalue)|temporary as lvalue
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, BlockId block) {
    machine.refs(block) = 0;  // WRONG
}
