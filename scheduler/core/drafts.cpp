// Draft tokens: what the driver expects a request to say next, checked by the model in one row.
//
// How many of them land is known only when the step has landed, so a request that drafts has one row in flight at a
// time.
#include <algorithm>
#include <string>

#include "scheduler/core/contract/errors.h"
#include "scheduler/core/scheduler.h"

namespace tokenspeed {

void Scheduler::offer_drafts(std::int64_t request_id, std::span<const std::int32_t> tokens) {
    refuse_while_deciding("offer_drafts");
    const RequestId request = find(request_id);
    if (tokens.size() > static_cast<std::size_t>(config_.max_draft_tokens)) {
        throw BadRequest(std::to_string(tokens.size()) + " draft tokens are offered for request " +
                         std::to_string(request_id) + "; max_draft_tokens is " +
                         std::to_string(config_.max_draft_tokens));
    }
    const auto bad = std::find_if(tokens.begin(), tokens.end(), [](std::int32_t token) { return token < 0; });
    if (bad != tokens.end()) {
        throw BadRequest("tokens[" + std::to_string(bad - tokens.begin()) + "] is " + std::to_string(*bad) +
                         "; token ids must not be negative");
    }
    if (drafts_.empty()) return;
    Drafts& drafts = drafts_[request];
    drafts.tokens.assign(tokens.begin(), tokens.end());
    drafts.known = machine_.known(request);
    drafts.drafting = true;
}

// Where its next row starts is open until the row in flight has landed.
bool Scheduler::awaits_drafts(RequestId request) const {
    return !drafts_.empty() && drafts_[request].drafting && machine_.pending(request) > 0;
}

// How many of the offered tokens its next row carries. They take no budget from others that decode, and no block that
// would have to be taken from anybody.
std::int64_t Scheduler::draft_tokens(RequestId request) {
    Drafts& drafts = drafts_[request];
    if (drafts.known != machine_.known(request)) drafts.tokens.clear();
    const std::int64_t planned = machine_.planned(request);
    std::int64_t most = std::min({static_cast<std::int64_t>(drafts.tokens.size()),
                                  round_.budget - round_.decodes_to_come - 1, machine_.limit(request) - planned - 2});
    while (most > 0 && machine_.capacity(request) < planned + 1 + most) {
        const BlockId block = round_.short_of_memory ? kNoBlock : pool_.free_block();
        if (block == kNoBlock) {
            most = machine_.capacity(request) - planned - 1;
        } else {
            require(machine_.apply_allocate(request, block));
        }
    }
    most = std::max<std::int64_t>(most, 0);
    totals_.draft_tokens += most;
    return most;
}

}  // namespace tokenspeed
