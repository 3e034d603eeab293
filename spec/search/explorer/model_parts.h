// What a generated model (generated/model.h) needs and no specification changes: words of states, and lists of
// proposals.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "scheduler/verification/state_access.h"

namespace tokenspeed::explorer {

// A list that keeps its memory.
class Proposals {
  public:
    template <class Transition>
    void add(Transition transition, const std::array<std::int8_t, 4>& arguments, int guard, bool explored) {
        if (count_ == all_.size()) [[unlikely]]
            all_.resize(2 * count_ + 64);
        const auto number = static_cast<std::uint8_t>(transition);
        all_[count_++] = {number, arguments, explored, static_cast<std::uint16_t>(guard)};
    }
    void clear() { count_ = 0; }
    std::size_t size() const { return count_; }
    const Proposal* data() const { return all_.data(); }
    const Proposal* begin() const { return all_.data(); }
    const Proposal* end() const { return all_.data() + count_; }
    const Proposal& operator[](std::size_t i) const { return all_[i]; }

  private:
    std::vector<Proposal> all_;
    std::size_t count_ = 0;
};

// Whether something was seen to be true, and to be false.
struct Seen {
    bool held = false;
    bool failed = false;

    void mark(bool holds) {
        held = held || holds;
        failed = failed || !holds;
    }
};

// Eight bytes from there on; the last eight may overlap others, so that one load or two are enough.
template <class Values>
std::uint64_t word_of(const Values& values, std::size_t at) {
    constexpr std::size_t kBytes = sizeof(Values);
    const auto* bytes = reinterpret_cast<const unsigned char*>(&values);
    if constexpr (kBytes >= 8) {
        std::uint64_t word;
        std::memcpy(&word, bytes + std::min(at, kBytes - 8), 8);
        return word;
    } else if constexpr (kBytes >= 4) {
        std::uint32_t first;
        std::uint32_t last;
        std::memcpy(&first, bytes, 4);
        std::memcpy(&last, bytes + kBytes - 4, 4);
        return std::uint64_t{last} << 32 | first;
    } else {
        std::uint64_t word = 0;
        for (std::size_t i = 0; i < kBytes; ++i) word = word << 8 | bytes[i];
        return word;
    }
}

// Whether some value is not 0.
template <class Values>
bool any(const Values& values) {
    std::uint64_t all = 0;
    for (std::size_t at = 0; at < sizeof values; at += 8) all |= word_of(values, at);
    return all != 0;
}

// A hash of all values of a variable, or of one column of them; a variable has an odd number of its own.
template <class Values>
std::uint64_t hash(const Values& values, std::uint64_t odd) {
    std::uint64_t result = 0x9e3779b97f4a7c15ULL;
    for (std::size_t at = 0; at < sizeof values; at += 8) {
        const auto product = static_cast<unsigned __int128>(result ^ word_of(values, at)) * odd;
        result = static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
    }
    return result;
}
template <class Values>
std::uint64_t hash_column(const Values& values, int column, std::uint64_t odd) {
    std::uint64_t result = 0;
    for (const auto& row : values) result = (result + static_cast<std::uint8_t>(row[column])) * odd;
    return result;
}

// Whether two individuals have the same signature.
template <std::size_t N>
bool alike(const std::array<std::uint64_t, N>& of) {
    for (std::size_t i = 0; i < N; ++i) {
        for (std::size_t j = i + 1; j < N; ++j) {
            if (of[i] == of[j]) return true;
        }
    }
    return false;
}
// Whether two that have something to do with others are alike.
template <std::size_t N>
bool alike(const std::array<std::uint64_t, N>& of, const std::array<std::uint64_t, N>& add) {
    for (std::size_t i = 0; i < N; ++i) {
        for (std::size_t j = i + 1; j < N; ++j) {
            if (of[i] == of[j] && add[i] != 0) return true;
        }
    }
    return false;
}
// Sorts individuals by signature; says whether anybody moved.
template <std::size_t N>
bool sort_by(const std::array<std::uint64_t, N>& of, std::array<std::int8_t, N>& order) {
    bool changed = false;
    for (std::size_t i = 1; i < N; ++i) {
        for (std::size_t j = i; j > 0 && of[order[j - 1]] > of[order[j]]; --j) {
            std::swap(order[j - 1], order[j]);
            changed = true;
        }
    }
    return changed;
}

}  // namespace tokenspeed::explorer
