#include "simulator/native/fleet.h"

#include <algorithm>
#include <utility>

namespace tokenspeed::simulator {

void Fleet::sift(std::size_t replica) {
    std::size_t at = place_[replica];
    const auto put = [this](std::size_t place, std::size_t moved) {
        order_[place] = moved;
        place_[moved] = place;
    };
    while (at > 0 && before(replica, order_[(at - 1) / 2])) {
        put(at, order_[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        std::size_t child = 2 * at + 1;
        if (child >= order_.size()) break;
        if (child + 1 < order_.size() && before(order_[child + 1], order_[child])) ++child;
        if (!before(order_[child], replica)) break;
        put(at, order_[child]);
        at = child;
    }
    put(at, replica);
}

void Fleet::changed(std::size_t replica, std::int64_t now) {
    now_ = std::max(now_, now);
    sift(replica);
    const bool waits = std::find(waiting_.begin(), waiting_.end(), replica) != waiting_.end();
    if (replicas_[replica]->wants_plan() && !waits) waiting_.push_back(replica);
}

bool Fleet::plan() {
    std::sort(waiting_.begin(), waiting_.end());
    bool good = true;
    for (const std::size_t replica : waiting_) {
        if (!replicas_[replica]->wants_plan()) continue;
        replicas_[replica]->plan(now_);
        sift(replica);
        good = good && !replicas_[replica]->policy_failed();
    }
    waiting_.clear();
    return good;
}

void Fleet::advance(std::int64_t until) {
    finished_.clear();
    for (;;) {
        const std::size_t first = order_.front();
        const std::int64_t next = replicas_[first]->next_event();
        if (next > now_) {
            if (!finished_.empty()) return;
            if (!waiting_.empty()) {
                if (now_ >= until || !plan()) return;
                continue;
            }
            if (next == kNever || next > until) return;
        }
        now_ = next;
        replicas_[first]->happen(finished_);
        sift(first);
        if (replicas_[first]->wants_plan()) waiting_.push_back(first);
    }
}

}  // namespace tokenspeed::simulator
