// What lock step sees of a machine's memory, and how it puts it back. The one place outside generated code that writes
// raw memory: spec/conform/single_writer.py names this file as its exception, and refuses its use anywhere but in
// generated/machine_access.cpp.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "scheduler/core/state/ids.h"

namespace tokenspeed {

// The memory of a machine's records when a state was restored, and what a transition may change in it. All memory is
// compared, so that a write to a wrong place is seen wherever it is.
class StateImage {
  public:
    using Word = std::uint64_t;

    template <class Record>
    void region(Record* at, std::size_t count) {
        static_assert(sizeof(Record) % sizeof(Word) == 0);
        const std::size_t words = count * sizeof(Record) / sizeof(Word);
        regions_.push_back({reinterpret_cast<std::byte*>(at), words_.size(), words * sizeof(Word)});
        words_.resize(words_.size() + words);
    }
    // The next value of a state: where it is. `many`: an id that stands for so many flags. `moves`: tables depend on
    // it.
    template <class T>
    void cell(const T& at, std::int32_t many, bool moves) {
        const auto* place = reinterpret_cast<const std::byte*>(&at);
        for (const Region& region : regions_) {
            const std::ptrdiff_t offset = place - region.at;
            if (offset < 0 || offset >= static_cast<std::ptrdiff_t>(region.bytes)) continue;
            const auto byte = static_cast<std::size_t>(offset);
            const auto shift = static_cast<std::int32_t>(8 * (byte % sizeof(Word)));  // little endian
            const Word mask = ~Word{0} >> (64 - 8 * sizeof(T)) << shift;
            const auto first = static_cast<std::int32_t>(values_.size());
            std::byte* const word = region.at + byte / sizeof(Word) * sizeof(Word);
            const Value value = {word, region.first + byte / sizeof(Word), mask, shift, first, many, moves};
            values_.resize(values_.size() + static_cast<std::size_t>(std::max(1, many)), value);
        }
    }
    // Values that are in a table; returns the first.
    std::int32_t table(std::int32_t count) {
        const auto first = static_cast<std::int32_t>(values_.size());
        values_.resize(values_.size() + static_cast<std::size_t>(count), {nullptr, 0, 0, 0, first, 0, true});
        return first;
    }
    std::size_t size() const { return values_.size(); }

    // The memory is that of this state.
    void keep(const std::int8_t* state) {
        for (const Region& region : regions_) std::memcpy(&words_[region.first], region.at, region.bytes);
        state_.assign(state, state + values_.size());
        changes_.resize(values_.size() + sizeof(Word));
    }
    void copy(std::int8_t* state) const { std::copy(state_.begin(), state_.end(), state); }
    // What the memory must be in another state. Whether that concerns tables.
    bool expect(const std::int8_t* state) {
        bool moves = false;
        std::size_t at = 0;
        for (; at + sizeof(Word) <= values_.size(); at += sizeof(Word)) moves = expect(state, at) || moves;
        return expect(state, values_.size() - sizeof(Word)) || moves;  // it may have some values again
    }
    // Whether the memory is so.
    bool is_met() {
        met_ = true;
        for (const Region& region : regions_) {
            met_ = met_ && std::memcmp(region.at, &words_[region.first], region.bytes) == 0;
        }
        return met_;
    }
    // The memory is again as it was.
    void back() {
        for (; count_ > 0; --count_) {
            const Change& change = changes_[count_ - 1];
            words_[change.word] = change.before;
            std::memcpy(change.at, &change.before, sizeof(Word));
        }
        if (met_) return;
        for (const Region& region : regions_) std::memcpy(region.at, &words_[region.first], region.bytes);
    }

  private:
    struct Value {
        std::byte* at;  // its word in the machine
        std::size_t word;
        Word mask;
        std::int32_t shift;  // bits in front of it in the word
        std::int32_t first;  // of the flags
        std::int32_t many;
        bool moves;
    };
    struct Region {
        std::byte* at;
        std::size_t first;  // of its words
        std::size_t bytes;
    };
    struct Change {
        std::byte* at;
        std::size_t word;
        Word before;
    };

    // A word of values.
    bool expect(const std::int8_t* state, std::size_t from) {
        Word now;
        Word kept;
        std::memcpy(&now, state + from, sizeof now);
        std::memcpy(&kept, &state_[from], sizeof kept);
        bool moves = false;
        for (Word differ = now ^ kept; differ != 0;) {
            const auto byte = static_cast<std::size_t>(std::countr_zero(differ) / 8);
            differ &= ~(Word{0xff} << 8 * byte);
            moves = expect(values_[from + byte], state, from + byte) || moves;
        }
        return moves;
    }
    bool expect(const Value& value, const std::int8_t* state, std::size_t at) {
        if (value.at == nullptr) return true;  // in a table
        const std::int64_t number = value.many == 0 ? state[at] : id_of(state + value.first, value.many);
        Word& word = words_[value.word];
        changes_[count_++] = {value.at, value.word, word};
        word = (word & ~value.mask) | (static_cast<Word>(number) << value.shift & value.mask);
        return value.moves;
    }
    // Which flag is set; an impossible id if several are.
    static std::int64_t id_of(const std::int8_t* flags, std::int32_t many) {
        std::int64_t id = kNone;
        for (std::int32_t i = 0; i < many; ++i) {
            if (flags[i] != 0) id = id == kNone ? i : many;
        }
        return id;
    }

    std::vector<Region> regions_;
    std::vector<Word> words_;  // that the regions must have
    std::vector<Value> values_;
    std::vector<std::int8_t> state_;
    std::vector<Change> changes_;  // what must be another word than when a state was restored, in order
    std::size_t count_ = 0;
    bool met_ = true;
};

}  // namespace tokenspeed
