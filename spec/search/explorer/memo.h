// What the specification answers to a batch of proposals, by a key that hashes all that its guards read there
// (generated: Model::batches).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "generated/model.h"

namespace tokenspeed::explorer {

class Memo {
  public:
    struct Judged {
        std::uint64_t key = 0;
        std::uint32_t accepted = kUnknown;  // where the accepted proposals start; they end at one without a transition
        std::uint32_t refused = 0;          // how many proposals are refused
    };
    // Where nothing is.
    static constexpr std::uint32_t kUnknown = 0;
    static constexpr std::uint32_t kNone = 1;

    Memo() : table_(1U << 12), accepted_(2) { accepted_[kNone].transition = kEnd; }

    void prefetch(std::uint64_t key) const { __builtin_prefetch(&table_[key & (table_.size() - 1)]); }

    static std::uint64_t mix(std::uint64_t sum) {
        sum = (sum ^ (sum >> 32)) * 0xd6e8feb86659fd93ULL;
        return sum ^ (sum >> 32);
    }

    // Known, or where it must be added.
    const Judged& find(std::uint64_t key) const { return table_[slot(key)]; }

    // Returns where the accepted proposals start.
    std::uint32_t add(std::uint64_t key, std::size_t refused, const Proposals& accepted) {
        if (2 * ++size_ > table_.size()) grow();
        Judged& judged = table_[slot(key)];
        judged = {key, kNone, static_cast<std::uint32_t>(refused)};
        if (accepted.size() == 0) return kNone;
        judged.accepted = static_cast<std::uint32_t>(accepted_.size());
        accepted_.insert(accepted_.end(), accepted.begin(), accepted.end());
        accepted_.push_back(accepted_[kNone]);
        return judged.accepted;
    }

    // Adds the accepted proposals that start there, for this individual.
    void recall(std::uint32_t first, int named, Proposals& accepted) const {
        for (const Proposal* p = &accepted_[first]; p->transition != kEnd; ++p) {
            auto arguments = p->arguments;
            if (const int place = kNamed[p->transition]; place >= 0) arguments[place] = static_cast<std::int8_t>(named);
            accepted.add(static_cast<Transition>(p->transition), arguments, 0, p->explored);
        }
    }

    std::size_t size() const { return size_; }

  private:
    static constexpr std::uint8_t kEnd = 255;
    static_assert(kTransitions.size() < kEnd);

    std::size_t slot(std::uint64_t key) const {
        std::size_t at = key & (table_.size() - 1);
        while (table_[at].accepted != kUnknown && table_[at].key != key) at = (at + 1) & (table_.size() - 1);
        return at;
    }
    void grow() {
        std::vector<Judged> old(table_.size() * 2);
        old.swap(table_);
        for (const Judged& judged : old) {
            if (judged.accepted != kUnknown) table_[slot(judged.key)] = judged;
        }
    }

    std::vector<Judged> table_;
    std::vector<Proposal> accepted_;
    std::size_t size_ = 0;
};

}  // namespace tokenspeed::explorer
