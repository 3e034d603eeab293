// reason: no member named 'recycle'
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, RequestHandle<RequestState::Releasing> request) {
    (void)std::move(request).recycle(machine);  // WRONG
}
