// What a machine behind another interface is asked, and what it must answer: for several states at once.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "generated/model.h"

namespace tokenspeed::explorer {

struct Batch {
    std::vector<std::int8_t> states;     // those values that the machine has
    std::vector<std::uint32_t> counts;   // proposals in each state
    std::vector<Proposal> proposals;     // without the answers
    std::vector<std::uint16_t> answers;  // to each
    std::vector<std::int8_t> after;      // the next state of each that is accepted

    void clear() {
        states.clear();
        counts.clear();
        proposals.clear();
        answers.clear();
        after.clear();
    }
    void propose(Proposal p) {
        answers.push_back(p.guard);
        p.guard = 0;
        p.explored = false;
        proposals.push_back(p);
        ++counts.back();
    }
};

// Whether the machine answers the batch as it must. Called by several threads.
using Ask = std::function<bool(const Batch& batch)>;

}  // namespace tokenspeed::explorer
