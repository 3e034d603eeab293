// reason: no member named 'launch'
#include "scheduler/generated/handles.h"

using namespace tokenspeed;

void wrong(Machine& machine, StepHandle<StepState::Idle> step) {
    (void)std::move(step).launch(machine);  // WRONG
}
