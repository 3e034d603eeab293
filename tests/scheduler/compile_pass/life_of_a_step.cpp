#include "scheduler/generated/handles.h"

using namespace tokenspeed;

// A step whose rows are added and landed by ids, between its own transitions.
Guard life_of_a_step(Machine& machine, StepHandle<StepState::Idle> step, RequestId request) {
    auto opened = std::move(step).open_step(machine);
    if (!opened) return opened.guard();
    auto planned = std::move(opened).next();
    if (const Guard guard = machine.apply_decode(planned.id(), request, 1); guard != Guard::none) return guard;
    auto launched = std::move(planned).launch(machine);
    if (!launched) return launched.guard();
    auto done = std::move(launched).next().observe(machine);
    if (!done) return done.guard();
    return std::move(done).next().retire(machine).guard();
}
