#include "scheduler/generated/handles.h"

using namespace tokenspeed;

// A request that is aborted while it waits, and its record used again.
Guard life_of_a_request(Machine& machine, std::int64_t tokens, std::int64_t most, std::int64_t turn) {
    auto request = RequestHandle<RequestState::Absent>::claim(machine, machine.add_request());
    if (!request) return Guard::bad_index;
    auto waiting = std::move(*request).submit(machine, tokens, most, turn);
    if (!waiting) return waiting.guard();
    auto releasing = std::move(waiting).next().abort(machine);
    if (!releasing) return releasing.guard();
    auto finished = std::move(releasing).next().close(machine);
    if (!finished) return finished.guard();
    return std::move(finished).next().recycle(machine).guard();
}
