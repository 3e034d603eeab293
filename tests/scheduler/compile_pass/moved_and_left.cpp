#include <utility>
#include <vector>

#include "scheduler/generated/handles.h"

using namespace tokenspeed;

// Handles live in containers, are assigned by moving, and can be given up for their ids.
std::vector<BlockId> moved_and_left(std::vector<BlockHandle<BlockState::Cached>> blocks) {
    std::vector<BlockId> ids;
    if (blocks.size() > 1) std::swap(blocks.front(), blocks.back());
    for (auto& block : blocks) ids.push_back(std::move(block).leave());
    return ids;
}
