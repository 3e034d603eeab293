#include "scheduler/core/planning/waiting_line.h"

#include <algorithm>

namespace tokenspeed {

void WaitingLine::enter(RequestId request, Place place, std::int64_t arrival) {
    const Entry entry{request, place, arrival};
    const auto at = std::upper_bound(line_.begin(), line_.end(), entry);
    const bool behind = at == line_.begin() || (at - 1)->arrival < arrival;
    const bool ahead = at == line_.end() || arrival < at->arrival;
    by_arrival_ = line_.empty() || (by_arrival_ && behind && ahead);
    line_.insert(at, entry);
}

void WaitingLine::leave(RequestId request) {
    const auto is_it = [request](const Entry& entry) { return entry.request == request; };
    const auto at = std::find_if(line_.begin(), line_.end(), is_it);
    if (at != line_.end()) line_.erase(at);
}

RequestId WaitingLine::oldest() const {
    if (line_.empty()) return kNone;
    if (by_arrival_) return line_.front().request;
    const auto older = [](const Entry& a, const Entry& b) { return a.arrival < b.arrival; };
    return std::min_element(line_.begin(), line_.end(), older)->request;
}

void WaitingLine::move(RequestId request, Place place) {
    const auto is_it = [request](const Entry& entry) { return entry.request == request; };
    const auto at = std::find_if(line_.begin(), line_.end(), is_it);
    if (at == line_.end()) return;
    at->place = place;
    by_arrival_ = settled_ = false;
}

void WaitingLine::settle() {
    if (settled_) return;
    std::stable_sort(line_.begin(), line_.end());
    settled_ = true;
}

}  // namespace tokenspeed
