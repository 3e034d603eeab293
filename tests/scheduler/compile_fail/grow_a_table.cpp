// reason: discards qualifiers|is not marked const|marked 'const'|passing 'const
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine) {
    machine.tables().add_request();  // WRONG
}
