// The transitions taken since the last drain, as 16-byte records in a buffer that never grows. docs/trace-format.md
// describes every byte.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace tokenspeed {

static_assert(std::endian::native == std::endian::little, "trace records are little-endian");

// Byte 0: transition or kind, 1: arguments and flag, 2-3: sequence number modulo 2^16, 4-15: four 24-bit arguments.
struct TraceRecord {
    static constexpr int kMaxArguments = 4;
    static constexpr std::uint64_t kFirstKind = 0xF0;  // transitions have smaller numbers
    static constexpr std::uint64_t kLost = 0xFE;       // bytes 4-11: events that did not fit the buffer
    static constexpr std::uint64_t kWide = 0xFF;       // bits 24 to 47 of the next record's arguments
    static constexpr std::uint64_t kIsWide = 0x80;     // flag in byte 1: a kWide record comes before this one

    std::uint64_t words[2];

    static TraceRecord make(std::uint64_t kind, std::uint64_t flags, std::uint64_t sequence,
                            const std::uint64_t* arguments, int shift) {
        std::uint64_t part[kMaxArguments];
        for (int i = 0; i < kMaxArguments; ++i) part[i] = (arguments[i] >> shift) & 0xFFFFFF;
        return {{kind | flags << 8 | (sequence & 0xFFFF) << 16 | part[0] << 32 | part[1] << 56,
                 part[1] >> 8 | part[2] << 16 | part[3] << 40}};
    }
    std::uint64_t kind() const { return words[0] & 0xFF; }
    std::uint64_t argument(int i) const {
        const std::uint64_t parts[kMaxArguments] = {words[0] >> 32, words[0] >> 56 | words[1] << 8, words[1] >> 16,
                                                    words[1] >> 40};
        return parts[i] & 0xFFFFFF;
    }
};
static_assert(sizeof(TraceRecord) == 16);

// One transition with its arguments in the order of the specification.
struct TraceEvent {
    std::int64_t transition;
    std::int64_t count;
    std::int64_t arguments[TraceRecord::kMaxArguments];
};

class TraceBuffer {
  public:
    // Room for `capacity` records, at least 2.
    explicit TraceBuffer(std::size_t capacity)
        : size_(capacity), records_(std::make_unique_for_overwrite<TraceRecord[]>(capacity)) {}

    // Appends one event with up to four arguments. If it does not fit, it and all later ones are counted as lost until
    // the next drain. Arguments come in registers: transitions need no stack frame while nothing is recorded.
    [[gnu::noinline]] void push(std::uint64_t transition, std::uint64_t count, std::int64_t a = 0, std::int64_t b = 0,
                                std::int64_t c = 0, std::int64_t d = 0) {
        const std::uint64_t arguments[TraceRecord::kMaxArguments] = {
            static_cast<std::uint64_t>(a), static_cast<std::uint64_t>(b), static_cast<std::uint64_t>(c),
            static_cast<std::uint64_t>(d)};
        const auto fits = [](std::int64_t x) { return x == x << 16 >> 16; };
        const bool wide = static_cast<std::uint64_t>(a | b | c | d) >> 24 != 0;
        const std::uint64_t sequence = sequence_++;
        const bool representable = !wide || (fits(a) && fits(b) && fits(c) && fits(d));
        if (lost_ > 0 || !representable || used_ + (wide ? 2 : 1) > size_) [[unlikely]] {
            ++lost_;
            return;
        }
        if (wide) [[unlikely]] {
            records_[used_++] = TraceRecord::make(TraceRecord::kWide, count, sequence, arguments, 24);
            count |= TraceRecord::kIsWide;
        }
        records_[used_++] = TraceRecord::make(transition, count, sequence, arguments, 0);
    }

    // Moves out what was recorded since the last call, oldest first; ends in a kLost record if events were lost.
    std::vector<TraceRecord> drain() {
        std::vector<TraceRecord> result(records_.get(), records_.get() + used_);
        if (lost_ > 0) {
            const std::uint64_t low = lost_ & 0xFFFFFF, middle = lost_ >> 24 & 0xFFFFFF, high = lost_ >> 48;
            const std::uint64_t parts[TraceRecord::kMaxArguments] = {low, middle, high, 0};
            result.push_back(TraceRecord::make(TraceRecord::kLost, 0, sequence_ - lost_, parts, 0));
        }
        all_lost_ += lost_;
        used_ = 0;
        lost_ = 0;
        return result;
    }

    // Events since the start, with those that were lost.
    std::uint64_t events() const { return sequence_; }
    std::uint64_t lost() const { return all_lost_ + lost_; }

  private:
    std::size_t size_;
    std::unique_ptr<TraceRecord[]> records_;
    std::size_t used_ = 0;
    std::uint64_t sequence_ = 0;
    std::uint64_t lost_ = 0;
    std::uint64_t all_lost_ = 0;
};

// The events of records that a buffer recorded, none of which were lost.
inline std::vector<TraceEvent> decode(const std::vector<TraceRecord>& records) {
    std::vector<TraceEvent> events;
    events.reserve(records.size());
    const TraceRecord* high = nullptr;
    for (const TraceRecord& record : records) {
        if (record.kind() == TraceRecord::kWide) {
            high = &record;
            continue;
        }
        TraceEvent event{
            static_cast<std::int64_t>(record.kind()), static_cast<std::int64_t>(record.words[0] >> 8 & 7), {}};
        for (int i = 0; i < TraceRecord::kMaxArguments; ++i) {
            const std::uint64_t value = record.argument(i) | (high == nullptr ? 0 : high->argument(i) << 24);
            event.arguments[i] = static_cast<std::int64_t>(value << 16) >> 16;
        }
        high = nullptr;
        events.push_back(event);
    }
    return events;
}

}  // namespace tokenspeed
