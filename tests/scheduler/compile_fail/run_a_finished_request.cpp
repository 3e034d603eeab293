// reason: no member named 'admit'
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, RequestHandle<RequestState::Finished> request) {
    (void)std::move(request).admit(machine);  // WRONG
}
