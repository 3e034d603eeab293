// reason: no member named 'retire'
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, StepHandle<StepState::Inflight> step) {
    (void)std::move(step).retire(machine);  // WRONG
}
