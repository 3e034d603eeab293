// reason: no member named 'finish'
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, RequestHandle<RequestState::Waiting> request) {
    (void)std::move(request).finish(machine);  // WRONG
}
