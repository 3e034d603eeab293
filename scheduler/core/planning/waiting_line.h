// The requests that wait: by place, then by arrival. Its head may be parked, so that it is not looked at in vain.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <utility>

#include "scheduler/core/state/ids.h"

namespace tokenspeed {

class WaitingLine {
  public:
    using Place = std::pair<std::int64_t, std::int64_t>;

    bool empty() const { return line_.empty(); }
    std::size_t size() const { return line_.size(); }
    RequestId operator[](std::size_t at) const { return line_[at].request; }

    void enter(RequestId request, Place place, std::int64_t arrival);
    // Takes the request out, or the one at this index.
    void leave(RequestId request);
    void take(std::size_t at) { line_.erase(line_.begin() + static_cast<std::ptrdiff_t>(at)); }
    // The one that arrived first, or kNone.
    RequestId oldest() const;
    // Gives a request another place; the order follows with the next `settle`.
    void move(RequestId request, Place place);
    void settle();

    // Why the head of the line did not fit: how many blocks it needs, for which state of the prefix index, and whether
    // it waits until one of those that ran then has left.
    struct Parked {
        RequestId request = kNone;
        std::int64_t arrival = 0;
        std::uint64_t version = 0;
        std::int64_t blocks_needed = 0;
        bool until_departure = false;
        std::uint64_t departures = 0;
    };
    void park(const Parked& parked) { parked_ = parked; }
    // Whether nothing has changed for this request since it was parked.
    bool waits_still(RequestId request, std::int64_t arrival, std::uint64_t version, std::uint64_t departures,
                     std::int64_t blocks_left) const {
        if (parked_.request != request || parked_.arrival != arrival || parked_.version != version) return false;
        const bool nobody_left = parked_.until_departure && parked_.departures == departures;
        return nobody_left || parked_.blocks_needed > blocks_left;
    }

    // Calls add(value) for what is parked, as far as it still says something.
    template <class Add>
    void fingerprint(std::uint64_t version, std::uint64_t departures, Add&& add) const {
        const bool holds = parked_.version == version;
        add(holds ? parked_.request : kNone);
        add(holds ? parked_.blocks_needed : 0);
        add(holds && parked_.until_departure && parked_.departures == departures ? 1 : 0);
        add(by_arrival_ ? 1 : 0);
        add(settled_ ? 1 : 0);
    }

  private:
    struct Entry {
        RequestId request;
        Place place;
        std::int64_t arrival;

        bool operator<(const Entry& other) const {
            return std::pair(place, arrival) < std::pair(other.place, other.arrival);
        }
    };

    std::deque<Entry> line_;
    bool by_arrival_ = true;  // whether that is the order of arrival
    bool settled_ = true;
    Parked parked_;
};

}  // namespace tokenspeed
