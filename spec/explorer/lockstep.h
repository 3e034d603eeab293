// Compares the compiled machine with the model in one state: every proposal, every answer, every value afterwards.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine.h"

namespace tokenspeed::explorer {

template <class M>
class LockStep {
  public:
    using State = typename M::State;

    LockStep(const StateAccess& access, const Instance& instance) : access_(access) {
        std::array<std::int32_t, M::kPopulation.size()> population;
        std::copy(M::kPopulation.begin(), M::kPopulation.end(), population.begin());
        machine_ = access_.create(instance.spec_constants().data(), population.data());
    }
    ~LockStep() { access_.destroy(machine_); }
    LockStep(const LockStep&) = delete;
    LockStep& operator=(const LockStep&) = delete;

    std::size_t compared = 0;
    std::size_t accepted = 0;
    std::size_t refused = 0;
    std::array<bool, kGuards.size() + 1> refusing{};  // guards that refused, in the states in which more is tried

    // Whether a machine that was just made is in the initial state.
    bool starts_as(const State& initial) const { return access_.difference(machine_, bytes(initial)) < 0; }

    // Calls found(next state, transition, arguments) for what belongs to the instance, and wrong(divergence) at most
    // once.
    template <class Found, class Wrong>
    void compare(const State& pre, const Instance& k, Found&& found, Wrong&& wrong) {
        refusals_.clear();
        acceptances_.clear();
        const bool more = compared++ % kOutsideEvery == 0;
        if (more) {
            M::outside(refusals_);
            M::template proposals<1>(pre, k, refusals_, acceptances_);
        } else {
            M::template proposals<0>(pre, k, refusals_, acceptances_);
        }
        access_.restore(machine_, bytes(pre));
        std::uint16_t answer = 0;
        const std::size_t stopped = access_.propose(machine_, refusals_.data(), refusals_.size(), &answer);
        if (stopped < refusals_.size()) return wrong(divergence(pre, refusals_[stopped], answer, -1));
        if (access_.difference(machine_, bytes(pre)) >= 0) return wrong(culprit(pre));
        refused += refusals_.size();
        if (more) {
            for (const Proposal& p : refusals_) refusing[p.guard - 1] = true;
        }
        bool fresh = true;
        for (const Proposal& p : acceptances_) {
            if (!fresh) access_.restore(machine_, bytes(pre));
            fresh = false;
            access_.propose(machine_, &p, 1, &answer);
            if (answer != p.guard) return wrong(divergence(pre, p, answer, -1));
            State post = pre;
            const auto transition = static_cast<Transition>(p.transition);
            Arguments arguments;
            std::copy_n(p.arguments.begin(), kArguments, arguments.begin());
            M::apply(pre, k, transition, arguments, post);
            const auto value = access_.difference(machine_, bytes(post));
            if (value >= 0) return wrong(divergence(pre, p, answer, value));
            ++accepted;
            if (p.explored) found(post, transition, arguments);
        }
    }

  private:
    // In some states arguments that name nobody, and integers beyond the instance's ranges, are tried too.
    static constexpr std::size_t kOutsideEvery = 64;

    static const std::int8_t* bytes(const State& state) { return reinterpret_cast<const std::int8_t*>(&state); }

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
            access_.restore(machine_, bytes(pre));
            access_.propose(machine_, &p, 1, &answer);
            const auto value = access_.difference(machine_, bytes(pre));
            if (value >= 0) return divergence(pre, p, answer, value);
        }
        throw std::logic_error("refusals change the machine together, but none of them does alone");
    }

    const StateAccess& access_;
    void* machine_;
    Proposals refusals_;
    Proposals acceptances_;
};

}  // namespace tokenspeed::explorer
