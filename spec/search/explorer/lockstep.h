// Compares the compiled machine with the model in one state: proposals, answers, and every value afterwards.
//
// Every proposal that is accepted is made in every state, and all values are compared afterwards. A refusal depends
// only on what the guards read; so, unless every refusal is asked for, the machine is asked about each combination of
// those values once (see memo.h), and in every 256th state about everything.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine.h"
#include "memo.h"

namespace tokenspeed::explorer {

template <class M>
class LockStep {
  public:
    using State = typename M::State;

    explicit LockStep(const Settings& settings)
        : access_(settings.machine), ask_(settings.ask), every_refusal_(settings.every_refusal) {
        if (access_ == nullptr) return;
        std::array<std::int32_t, M::kPopulation.size()> population;
        std::copy(M::kPopulation.begin(), M::kPopulation.end(), population.begin());
        machine_ = access_->create(settings.instance.spec_constants().data(), population.data());
    }
    ~LockStep() {
        if (access_ != nullptr) access_->destroy(machine_);
    }
    LockStep(const LockStep&) = delete;
    LockStep& operator=(const LockStep&) = delete;

    std::size_t compared = 0;
    std::size_t accepted = 0;
    std::size_t refused = 0;                          // asked of the machine
    std::size_t implied = 0;                          // not asked: the same values were refused before
    std::array<bool, kGuards.size() + 1> refusing{};  // guards that refused, where more was asked

    std::size_t judged() const { return memo_.size(); }

    // Whether a machine that was just made is in the initial state.
    bool starts_as(const State& initial) const {
        return access_ == nullptr || access_->difference(machine_, bytes(initial)) < 0;
    }

    // Calls found(next state, transition, arguments) for what belongs to the instance, and wrong(divergence) at most
    // once.
    template <class Found, class Wrong>
    void compare(const State& pre, const Instance& k, Found&& found, Wrong&& wrong) {
        refusals_.clear();
        acceptances_.clear();
        if (compared++ % kMoreEvery == 0) {
            M::outside(refusals_);
            everything<1>(pre, k);
            mark();
        } else if (every_refusal_) {
            everything<0>(pre, k);
        } else {
            what_is_new(pre, k);
        }
        if (!begin(pre, wrong)) return;
        refused += refusals_.size();
        for (const Proposal& p : acceptances_) {
            State post = pre;
            const auto transition = static_cast<Transition>(p.transition);
            Arguments arguments;
            std::copy_n(p.arguments.begin(), kArguments, arguments.begin());
            M::apply(pre, k, transition, arguments, post);
            if (!take(pre, p, post, wrong)) return;
            ++accepted;
            if (p.explored) found(post, transition, arguments);
        }
    }

    // Asks what was put off. False if an answer is wrong.
    bool finish() {
        const bool right = batch_.counts.empty() || ask_(batch_);
        batch_.clear();
        return right;
    }

  private:
    // In some states every refusal is asked for, and arguments that name nobody and integers beyond the instance's
    // ranges are tried too.
    static constexpr std::size_t kMoreEvery = 256;

    struct Asked {
        std::uint64_t key;
        int group;
        int named;
    };

    // The refusals in a state.
    template <class Wrong>
    bool begin(const State& pre, Wrong&& wrong) {
        if (access_ == nullptr) {
            batch_.states.insert(batch_.states.end(), bytes(pre), bytes(pre) + M::kShared);
            batch_.counts.push_back(0);
            for (const Proposal& p : refusals_) batch_.propose(p);
            return true;
        }
        access_->restore(machine_, bytes(pre));
        if (refusals_.size() == 0) return true;
        std::uint16_t answer = 0;
        const std::size_t stopped = access_->propose(machine_, refusals_.data(), refusals_.size(), &answer);
        if (stopped < refusals_.size()) {
            wrong(divergence(pre, refusals_[stopped], answer, -1));
            return false;
        }
        if (access_->difference(machine_, bytes(pre)) < 0) return true;
        wrong(culprit(pre));
        return false;
    }

    // One proposal that must be accepted.
    template <class Wrong>
    bool take(const State& pre, const Proposal& p, const State& post, Wrong&& wrong) {
        if (access_ == nullptr) {
            batch_.propose(p);
            batch_.after.insert(batch_.after.end(), bytes(post), bytes(post) + M::kShared);
            return true;
        }
        if (access_->reaches(machine_, &p, bytes(post))) return true;
        std::uint16_t answer = 0;
        access_->take(machine_, &p, &answer, after_.data());
        const auto* first = std::mismatch(after_.begin(), after_.end(), bytes(post)).first;
        wrong(divergence(pre, p, answer, answer == 0 ? static_cast<int>(first - after_.begin()) : -1));
        return false;
    }

    static const std::int8_t* bytes(const State& state) { return reinterpret_cast<const std::int8_t*>(&state); }

    template <int kBeyond>
    void everything(const State& pre, const Instance& k) {
        M::everybody([&](int group, const typename M::Tuple& who) {
            M::template judge<kBeyond>(group, who, pre, k, refusals_, acceptances_);
        });
    }

    // All that is accepted, and refusals that were not asked for before. All keys first, since the memo is large: the
    // processor then waits for it once.
    void what_is_new(const State& pre, const Instance& k) {
        const auto twins = M::twins(pre);
        std::size_t count = 0;
        M::batches(pre, twins, [&](int group, int named, std::uint64_t sum) {
            batches_[count] = {Memo::mix(sum), group, named};
            memo_.prefetch(batches_[count++].key);
        });
        const std::size_t before = refusals_.size();
        for (std::size_t i = 0; i < count; ++i) {
            const auto& [key, group, named] = batches_[i];
            const Memo::Judged& judged = memo_.find(key);
            implied += judged.refused;
            std::uint32_t accepted = judged.accepted;
            if (accepted == Memo::kUnknown) {
                const std::size_t refusals = refusals_.size();
                new_.clear();
                M::tuples(group, named, twins, [&, group = group](const typename M::Tuple& who) {
                    M::template judge<0>(group, who, pre, k, refusals_, new_);
                });
                accepted = memo_.add(key, refusals_.size() - refusals, new_);
            }
            if (accepted != Memo::kNone) memo_.recall(accepted, named, acceptances_);
        }
        if (refusals_.size() > before) mark();
    }

    void mark() {
        for (const Proposal& p : refusals_) refusing[p.guard - 1] = true;
    }

    static Divergence divergence(const State& pre, const Proposal& p, int answered, int value) {
        Divergence d;
        d.state.assign(bytes(pre), bytes(pre) + sizeof(State));
        d.transition = kTransitions[p.transition];
        d.arguments.assign(p.arguments.begin(), p.arguments.end());
        d.expected = p.guard;
        d.answered = answered;
        d.value = value;
        return d;
    }

    // The refusal that changed something.
    Divergence culprit(const State& pre) {
        for (const Proposal& p : refusals_) {
            std::uint16_t answer = 0;
            access_->restore(machine_, bytes(pre));
            access_->propose(machine_, &p, 1, &answer);
            const auto value = access_->difference(machine_, bytes(pre));
            if (value >= 0) return divergence(pre, p, answer, value);
        }
        throw std::logic_error("refusals change the machine together, but none of them does alone");
    }

    const StateAccess* const access_;  // or nothing, and batches are asked
    const Ask& ask_;
    const bool every_refusal_;
    void* machine_ = nullptr;
    Batch batch_;
    std::array<std::int8_t, M::kShared> after_;
    Memo memo_;
    std::array<Asked, M::kMostBatches> batches_;
    Proposals new_;  // what is accepted of a batch
    Proposals refusals_;
    Proposals acceptances_;
};

}  // namespace tokenspeed::explorer
