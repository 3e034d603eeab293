// All states found so far, with how each was reached: exact, packed, and split into shards by hash, so that threads can
// add to different shards at the same time. A state's number is made of its shard and its place there.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "generated/model.h"

namespace tokenspeed::explorer {

inline constexpr std::uint32_t kNobody = std::numeric_limits<std::uint32_t>::max();
inline constexpr int kShardBits = 6;
inline constexpr std::uint32_t kShards = 1U << kShardBits;

// Relations take a bit for each pair, numbers a byte.
template <class M>
struct Packed {
    static constexpr std::size_t kFlagBytes = (M::kFlags + 7) / 8;
    static constexpr std::size_t kBehind = sizeof(typename M::State) - M::kFlagsAt - M::kFlags;
    static constexpr std::size_t kBytes = M::kFlagsAt + kFlagBytes + kBehind;

    std::array<std::uint8_t, kBytes> bytes;

    explicit Packed(const typename M::State& state) {
        std::array<std::uint8_t, M::kFlagsAt + kFlagBytes * 8 + kBehind> from{};
        std::memcpy(from.data(), &state, sizeof state);
        std::memcpy(bytes.data(), from.data(), M::kFlagsAt);
        std::memcpy(bytes.data() + M::kFlagsAt + kFlagBytes, from.data() + M::kFlagsAt + M::kFlags, kBehind);
        std::memset(from.data() + M::kFlagsAt + M::kFlags, 0, kFlagBytes * 8 - M::kFlags);
        for (std::size_t i = 0; i < kFlagBytes; ++i) {
            std::uint64_t eight;
            std::memcpy(&eight, from.data() + M::kFlagsAt + 8 * i, 8);
            bytes[M::kFlagsAt + i] = static_cast<std::uint8_t>((eight * 0x0102040810204080ULL) >> 56);
        }
    }

    typename M::State state() const {
        typename M::State result;
        std::array<std::uint8_t, sizeof(typename M::State) + 8> to;
        std::memcpy(to.data(), bytes.data(), M::kFlagsAt);
        for (std::size_t i = 0; i < kFlagBytes; ++i) {
            const std::uint64_t spread = bytes[M::kFlagsAt + i] * 0x0101010101010101ULL & 0x8040201008040201ULL;
            const std::uint64_t eight = ((spread + 0x7f7f7f7f7f7f7f7fULL) >> 7) & 0x0101010101010101ULL;
            std::memcpy(to.data() + M::kFlagsAt + 8 * i, &eight, 8);
        }
        std::memcpy(to.data() + M::kFlagsAt + M::kFlags, bytes.data() + M::kFlagsAt + kFlagBytes, kBehind);
        std::memcpy(&result, to.data(), sizeof result);
        return result;
    }

    std::uint64_t hash() const {
        // Four chains at once: a multiplication takes longer than it takes to start the next one.
        std::array<std::uint64_t, 4> lanes = {0x9e3779b97f4a7c15ULL, 0xbf58476d1ce4e5b9ULL, 0x94d049bb133111ebULL,
                                              0xd6e8feb86659fd93ULL};
        for (std::size_t i = 0; 8 * i < kBytes; ++i) {
            std::uint64_t& lane = lanes[i % lanes.size()];
            lane = (lane ^ word_of(bytes, 8 * i)) * 0xff51afd7ed558ccdULL;
            lane ^= lane >> 32;
        }
        std::uint64_t h = 0;
        for (const std::uint64_t lane : lanes) {
            h = (h ^ lane) * 0xff51afd7ed558ccdULL;
            h ^= h >> 32;
        }
        return h;
    }
};

struct Step {
    std::uint32_t parent;
    Transition transition;
    Arguments arguments;
};

template <class M>
class Shard {
  public:
    Shard() : table_(1U << bits_, 0) {}

    // Makes room, so that nothing moves until there are more states.
    void reserve(std::size_t states) {
        states_.reserve(states);
        steps_.reserve(states);
    }
    std::size_t size() const { return states_.size(); }
    const Packed<M>& state(std::size_t at) const { return states_[at]; }
    const Step& step(std::size_t at) const { return steps_[at]; }

    void prefetch(std::uint64_t hash) const { __builtin_prefetch(&table_[slot(hash)]); }
    void prefetch_state(std::uint64_t hash) const {
        const std::uint64_t entry = table_[slot(hash)];
        if (entry != 0) prefetch_at(static_cast<std::uint32_t>(entry) - 1);
    }
    void prefetch_at(std::size_t at) const {
        const auto* bytes = reinterpret_cast<const char*>(&states_[at]);
        for (std::size_t i = 0; i < sizeof(Packed<M>); i += kCacheLine) __builtin_prefetch(bytes + i);
    }
    bool contains(const Packed<M>& state, std::uint64_t hash) const { return table_[find(state, hash)] != 0; }

    // Adds the state if it is new; returns whether it is.
    bool add(const Packed<M>& state, std::uint64_t hash, const Step& step) {
        if (states_.size() * 2 > table_.size()) grow();
        const std::size_t at = find(state, hash);
        if (table_[at] != 0) return false;
        states_.push_back(state);
        steps_.push_back(step);
        table_[at] = tag(hash) | states_.size();
        return true;
    }

  private:
    static constexpr std::size_t kCacheLine = 64;

    // An entry is half a hash and the number of a state (from 1); 0 is none.
    static std::uint64_t tag(std::uint64_t hash) { return hash & 0xffffffff00000000ULL; }
    // The lowest bits of a hash choose the shard, the highest the place in it: those are in the entry.
    std::size_t slot(std::uint64_t hash) const { return hash >> (64 - bits_); }
    std::size_t find(const Packed<M>& state, std::uint64_t hash) const {
        std::size_t at = slot(hash);
        for (; table_[at] != 0; at = (at + 1) & (table_.size() - 1)) {
            if (tag(table_[at]) == tag(hash) &&
                states_[static_cast<std::uint32_t>(table_[at]) - 1].bytes == state.bytes) {
                break;
            }
        }
        return at;
    }
    void grow() {
        std::vector<std::uint64_t> old(table_.size() * 2, 0);
        old.swap(table_);
        ++bits_;
        for (const std::uint64_t entry : old) {
            if (entry == 0) continue;
            std::size_t at = slot(entry);
            while (table_[at] != 0) at = (at + 1) & (table_.size() - 1);
            table_[at] = entry;
        }
    }

    int bits_ = 6;
    std::vector<std::uint64_t> table_;
    std::vector<Packed<M>> states_;
    std::vector<Step> steps_;
};

template <class M>
class Store {
  public:
    static std::uint32_t shard_of(std::uint64_t hash) { return hash & (kShards - 1); }
    static std::uint32_t number(std::uint32_t shard, std::size_t at) {
        return static_cast<std::uint32_t>(at << kShardBits) | shard;
    }

    void reserve(std::size_t states) {
        for (auto& shard : shards_) shard.reserve(states / kShards + states / kShards / 8 + 1024);
    }
    Shard<M>& shard(std::uint32_t i) { return shards_[i]; }
    std::size_t shard_size(std::uint32_t i) const { return shards_[i].size(); }
    const Packed<M>& state(std::uint32_t number) const {
        return shards_[number & (kShards - 1)].state(number >> kShardBits);
    }
    void prefetch(std::uint32_t number) const { shards_[number & (kShards - 1)].prefetch_at(number >> kShardBits); }
    const Step& step(std::uint32_t number) const { return shards_[number & (kShards - 1)].step(number >> kShardBits); }
    std::size_t size() const {
        std::size_t total = 0;
        for (const auto& shard : shards_) total += shard.size();
        return total;
    }

  private:
    std::array<Shard<M>, kShards> shards_;
};

}  // namespace tokenspeed::explorer
