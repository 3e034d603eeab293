// reason: no member named 'abort'
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, RequestHandle<RequestState::Releasing> request) {
    (void)std::move(request).abort(machine);  // WRONG
}
