// All replicas, stepped together: what happens next happens next, wherever it is.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "simulator/native/replica.h"

namespace tokenspeed::simulator {

// The order of one instant is that of `world/clock.py`: steps land and copies end, replica by replica; then whoever
// calls this acts; then replicas plan.
class Fleet {
  public:
    void add(std::unique_ptr<Replica> replica) {
        place_.push_back(order_.size());
        order_.push_back(replicas_.size());
        replicas_.push_back(std::move(replica));
    }
    std::size_t size() const { return replicas_.size(); }
    Replica& at(std::size_t replica) { return *replicas_.at(replica); }

    // Something was done to a replica from outside at `now`.
    void changed(std::size_t replica, std::int64_t now);
    // Go on until `until`, the time of the caller's next event, but not beyond the moment at which calls end; these are
    // in `finished`, and the moment is `now`. Stops early, too, when a policy has failed.
    void advance(std::int64_t until);
    const std::vector<std::int64_t>& finished() const { return finished_; }
    std::int64_t now() const { return now_; }

  private:
    bool before(std::size_t a, std::size_t b) const {
        const std::int64_t left = replicas_[a]->next_event(), right = replicas_[b]->next_event();
        return left != right ? left < right : a < b;
    }
    void sift(std::size_t replica);  // its next event has changed
    bool plan();                     // false if a policy has failed

    std::vector<std::unique_ptr<Replica>> replicas_;
    std::vector<std::size_t> order_, place_;  // a heap of replicas by their next event, and where each is in it
    std::vector<std::size_t> waiting_;        // replicas that want to plan, each once
    std::vector<std::int64_t> finished_;
    std::int64_t now_ = 0;
};

}  // namespace tokenspeed::simulator
