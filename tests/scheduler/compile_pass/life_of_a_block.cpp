#include "scheduler/generated/handles.h"

using namespace tokenspeed;

// From the free list to a request and back; a refused transition gives the same handle back.
Guard life_of_a_block(Machine& machine, BlockHandle<BlockState::Free> block, RequestId request) {
    auto taken = std::move(block).allocate(machine, request);
    if (!taken) return taken.guard();
    auto released = std::move(taken).next().release_owned(machine, request);
    if (released) return Guard::none;
    auto limbo = std::move(released).same().release_to_limbo(machine, request);
    if (!limbo) {
        const BlockId kept = std::move(limbo).same().leave();
        return kept < 0 ? Guard::bad_index : limbo.guard();
    }
    return std::move(limbo).next().reap(machine).guard();
}
