#include "scheduler/generated/handles.h"

using namespace tokenspeed;

// A transition that moves two individuals takes and gives a handle for each.
Guard spill(Machine& machine, CopyHandle<CopyState::Idle> copy, BlockId block, HostHandle<HostState::Empty> page) {
    auto started = std::move(copy).spill(machine, block, std::move(page));
    if (!started) {
        auto [same_copy, same_page] = std::move(started).same();
        return same_copy.id() < 0 || same_page.id() < 0 ? Guard::bad_index : started.guard();
    }
    auto [spilling, filling] = std::move(started).next();
    auto done = std::move(spilling).spill_done(machine, block, std::move(filling));
    if (!done) return done.guard();
    auto [idle, valid] = std::move(done).next();
    return std::move(valid).drop_page(machine).guard();
}
