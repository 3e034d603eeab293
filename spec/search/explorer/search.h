// Breadth-first search of one instance: every reachable state is visited and checked, so a counterexample is shortest.
//
// A level is worked off in rounds of a fixed number of states. In a round threads first find the successors of
// different states, then add them to different shards of the store; what was found first in the order of the round
// counts. So the result does not depend on the threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <barrier>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>

#include "engine.h"
#include "lockstep.h"
#include "store.h"

namespace tokenspeed::explorer {

template <class M>
class Search final : public Engine {
  public:
    using State = typename M::State;

    Result run(const Settings& settings) override {
        settings_ = settings;
        const int threads = std::max(1, settings.threads);
        for (int i = 0; i < threads; ++i) workers_.emplace_back(std::make_unique<Worker>(settings));
        State start = M::initial(settings.instance);
        if (settings.compares() && !workers_[0]->lock_step->starts_as(start)) {
            throw std::invalid_argument("a machine that was just made is not in the specification's initial state");
        }
        if (settings.compares()) store_.reserve(settings.max_states);
        const Packed<M> packed(start);
        const auto hash = packed.hash();
        store_.shard(Store<M>::shard_of(hash)).add(packed, hash, {kNobody, Transition{}, {}});
        level_ = {Store<M>::number(Store<M>::shard_of(hash), 0)};
        chunks_.resize(kRound / kChunk);
        std::barrier sync(threads);
        std::vector<std::thread> others;
        for (int i = 1; i < threads; ++i) others.emplace_back([&, i] { work(i, sync); });
        work(0, sync);
        for (auto& thread : others) thread.join();
        return finish();
    }

    std::vector<std::int8_t> sample(std::size_t first, std::size_t stride) const override {
        std::vector<std::int8_t> result;
        for_some(first, stride, [&](const State& state) {
            const auto* bytes = reinterpret_cast<const std::int8_t*>(&state);
            result.insert(result.end(), bytes, bytes + sizeof(State));
        });
        return result;
    }
    std::array<Seen, kGuards.size()> guards(const Instance& instance, std::size_t stride) const override {
        std::array<Seen, kGuards.size()> seen{};
        for_some(0, stride, [&](const State& state) {
            M::everybody(
                [&](int group, const typename M::Tuple& who) { M::look_at_guards(group, who, state, instance, seen); });
        });
        return seen;
    }
    std::vector<Answer> answers(const Instance& instance, const std::vector<std::int8_t>& given) const override {
        const State pre = from_bytes(given);
        Proposals refused;
        Proposals accepted;
        M::everybody([&](int group, const typename M::Tuple& who) {
            M::template judge<1>(group, who, pre, instance, refused, accepted);
        });
        std::vector<Answer> result;
        const auto add = [&](const Proposal& p) {
            result.push_back(
                {std::string(kTransitions[p.transition]), {p.arguments.begin(), p.arguments.end()}, p.guard, {}});
        };
        for (const Proposal& p : refused) add(p);
        for (const Proposal& p : accepted) {
            add(p);
            State post = pre;
            Arguments arguments;
            std::copy_n(p.arguments.begin(), kArguments, arguments.begin());
            M::apply(pre, instance, static_cast<Transition>(p.transition), arguments, post);
            result.back().after = to_bytes(post);
        }
        return result;
    }

    std::size_t state_bytes() const override { return sizeof(State); }
    std::size_t packed_bytes() const override { return Packed<M>::kBytes + sizeof(Step); }

    std::vector<std::int8_t> canonical(const std::vector<std::int8_t>& given,
                                       const std::vector<std::vector<int>>& orders) const override {
        State state = from_bytes(given);
        typename M::Order order;
        order.assign(orders);
        M::rename(state, order);
        M::canonicalise(state);
        return to_bytes(state);
    }

  private:
    static constexpr std::size_t kRound = 8192;
    static constexpr std::size_t kChunk = 64;
    static constexpr std::size_t kTogether = 48;

    static State from_bytes(const std::vector<std::int8_t>& given) {
        State state;
        if (given.size() != sizeof state) throw std::invalid_argument("the state has another number of bytes");
        std::memcpy(&state, given.data(), sizeof state);
        return state;
    }
    static std::vector<std::int8_t> to_bytes(const State& state) {
        const auto* bytes = reinterpret_cast<const std::int8_t*>(&state);
        return {bytes, bytes + sizeof state};
    }

    template <class Visit>
    void for_some(std::size_t first, std::size_t stride, Visit&& visit) const {
        std::size_t seen = 0;
        for (std::uint32_t shard = 0; shard < kShards; ++shard) {
            for (std::size_t at = 0; at < store_.shard_size(shard); ++at, ++seen) {
                if (seen < first || (seen - first) % stride != 0) continue;
                visit(store_.state(Store<M>::number(shard, at)).state());
            }
        }
    }

    struct Candidate {
        Packed<M> state;
        std::uint64_t hash;
        Step step;
        std::uint32_t number;  // once it is added; kNobody if it was there
    };
    struct Found {
        std::uint64_t order;  // in the round
        std::string_view property;
        Step step;
    };
    struct Worker {
        std::unique_ptr<LockStep<M>> lock_step;
        std::vector<Candidate> candidates;
        std::vector<std::uint64_t> taken = std::vector<std::uint64_t>(kTransitions.size(), 0);
        std::optional<Found> violation;
        std::vector<std::pair<std::uint64_t, Divergence>> divergences;
        bool agrees = true;
        std::exception_ptr failure;

        explicit Worker(const Settings& settings) {
            if (settings.compares()) lock_step = std::make_unique<LockStep<M>>(settings);
        }
        void violated(const Found& found) {
            if (!violation || found.order < violation->order) violation = found;
        }
    };

    void work(int me, std::barrier<>& sync) {
        Worker& worker = *workers_[static_cast<std::size_t>(me)];
        while (true) {
            sync.arrive_and_wait();
            if (done_) return;
            for (std::size_t chunk; (chunk = next_chunk_++) * kChunk < round_;) {
                expand(worker, chunk);
                if (worker.lock_step != nullptr) ask(worker);
            }
            sync.arrive_and_wait();
            merge(worker, static_cast<std::uint32_t>(me), static_cast<std::uint32_t>(workers_.size()));
            sync.arrive_and_wait();
            if (me == 0) end_round();
        }
    }

    // What was put off is asked here, so that nobody waits inside a comparison.
    static void ask(Worker& worker) {
        try {
            worker.agrees = worker.lock_step->finish() && worker.agrees;
        } catch (...) {
            worker.failure = std::current_exception();
            worker.agrees = false;
        }
    }

    // Successors of the states of a chunk that are not in the store yet.
    void expand(Worker& worker, std::size_t chunk) {
        auto& out = chunks_[chunk];
        out.clear();
        const std::size_t end = std::min(round_, (chunk + 1) * kChunk);
        for (std::size_t i = chunk * kChunk; i < end; ++i) {
            const std::uint32_t number = level_[at_ + i];
            if (i + 1 < end) store_.prefetch(level_[at_ + i + 1]);
            State state = store_.state(number).state();
            auto& candidates = worker.candidates;
            std::uint32_t nth = 0;
            const auto found = [&](State& next, Transition transition, const Arguments& arguments) {
                if (draining_ || settings_.instance.disabled[static_cast<std::size_t>(transition)]) return;
                ++worker.taken[static_cast<std::size_t>(transition)];
                const Step step{number, transition, arguments};
                if (settings_.check_properties) {
                    const int action = M::false_action(state, next, transition, settings_.instance);
                    if (action >= 0) {
                        const auto property = kActions[static_cast<std::size_t>(action)];
                        worker.violated({i << 32 | nth, property, step});
                    }
                }
                M::normalise(next, transition);
                if (settings_.reduce) M::canonicalise(next);
                // Its number is its order, until it is added.
                candidates.push_back({Packed<M>(next), 0, step, static_cast<std::uint32_t>(i << 16 | nth++)});
                Candidate& candidate = candidates.back();
                candidate.hash = candidate.state.hash();
                store_.shard(Store<M>::shard_of(candidate.hash)).prefetch(candidate.hash);
            };
            if (worker.lock_step == nullptr) {
                M::successors(state, settings_.instance, found);
            } else {
                M::shift(state, depth_ % 4);  // step numbers that are not near 0 must do as well
                worker.lock_step->compare(state, settings_.instance, found, [&](Divergence divergence) {
                    worker.divergences.emplace_back(rounds_ << 32 | i, std::move(divergence));
                });
            }
            if (candidates.size() >= kTogether || i + 1 == end) keep_new(candidates, out);
        }
    }

    // Those that are not in the store; several are looked up together, so that memory is waited for once.
    void keep_new(std::vector<Candidate>& candidates, std::vector<Candidate>& out) {
        for (const Candidate& c : candidates) store_.shard(Store<M>::shard_of(c.hash)).prefetch_state(c.hash);
        for (const Candidate& c : candidates) {
            if (!store_.shard(Store<M>::shard_of(c.hash)).contains(c.state, c.hash)) out.push_back(c);
        }
        candidates.clear();
    }

    // Adds what belongs to this worker's shards, in the order of the round.
    void merge(Worker& worker, std::uint32_t me, std::uint32_t workers) {
        const auto mine = [&](std::uint64_t hash) { return Store<M>::shard_of(hash) % workers == me; };
        for (std::size_t chunk = 0; chunk * kChunk < round_; ++chunk) {
            for (const Candidate& c : chunks_[chunk]) {
                if (mine(c.hash)) store_.shard(Store<M>::shard_of(c.hash)).prefetch(c.hash);
            }
            for (Candidate& c : chunks_[chunk]) {
                const std::uint32_t shard = Store<M>::shard_of(c.hash);
                if (!mine(c.hash)) continue;
                const std::uint64_t order = static_cast<std::uint64_t>(c.number >> 16) << 32 | (c.number & 0xffffU);
                c.number = kNobody;
                if (!store_.shard(shard).add(c.state, c.hash, c.step)) continue;
                c.number = Store<M>::number(shard, store_.shard(shard).size() - 1);
                if (!settings_.check_properties) continue;
                const int invariant = M::false_invariant(c.state.state(), settings_.instance, settings_.check_lemmas);
                if (invariant >= 0) worker.violated({order, kInvariants[static_cast<std::size_t>(invariant)], c.step});
            }
        }
    }

    void end_round() {
        for (std::size_t chunk = 0; chunk * kChunk < round_; ++chunk) {
            for (const Candidate& c : chunks_[chunk]) {
                if (c.number != kNobody) next_.push_back(c.number);
            }
        }
        ++rounds_;
        at_ += round_;
        bool wrong = false;
        for (const auto& worker : workers_) {
            wrong = wrong || worker->violation || !worker->divergences.empty() || !worker->agrees;
        }
        states_ += next_.size() - counted_;
        counted_ = next_.size();
        if (at_ == level_.size()) {
            level_.swap(next_);
            next_.clear();
            counted_ = at_ = 0;
            if (!level_.empty()) ++depth_;
        }
        complete_ = level_.empty() && !draining_;
        // With a machine, all states that were found are compared before the search ends.
        draining_ = draining_ || states_ > settings_.max_states;
        done_ = wrong || level_.empty() || (draining_ && !settings_.compares());
        round_ = std::min(kRound, level_.size() - at_);
        next_chunk_ = 0;
    }

    Result finish() {
        Result result;
        result.states = store_.size();
        result.depth = depth_;
        result.complete = complete_;
        std::optional<Found> first;
        std::vector<std::pair<std::uint64_t, Divergence>> divergences;
        for (auto& worker : workers_) {
            if (worker->failure) std::rethrow_exception(worker->failure);
            result.agrees = result.agrees && worker->agrees;
            for (std::size_t i = 0; i < kTransitions.size(); ++i) {
                result.taken[i] += worker->taken[i];
                result.transitions += worker->taken[i];
            }
            if (worker->violation && (!first || worker->violation->order < first->order)) first = worker->violation;
            for (auto& divergence : worker->divergences) divergences.push_back(std::move(divergence));
            if (worker->lock_step != nullptr) {
                result.compared += worker->lock_step->compared;
                result.accepted += worker->lock_step->accepted;
                result.refused += worker->lock_step->refused;
                result.implied += worker->lock_step->implied;
                result.judged += worker->lock_step->judged();
                for (std::size_t i = 0; i < kGuards.size(); ++i) {
                    if (worker->lock_step->refusing[i]) result.refusing[i] = true;
                }
            }
        }
        std::sort(divergences.begin(), divergences.end(),
                  [](const auto& a, const auto& b) { return a.first < b.first; });
        for (auto& [order, divergence] : divergences) result.divergences.push_back(std::move(divergence));
        if (first) {
            result.violated = first->property;
            result.trace = trace(first->step);
        }
        workers_.clear();
        return result;
    }

    // The way to a step, with names that individuals keep: those of normal forms change from state to state.
    std::vector<Event> trace(const Step& last) const {
        std::vector<Step> steps = {last};
        while (store_.step(steps.back().parent).parent != kNobody) steps.push_back(store_.step(steps.back().parent));
        std::reverse(steps.begin(), steps.end());
        std::vector<Event> events;
        typename M::Order names;  // of the individuals of the normal form
        for (const Step& step : steps) {
            const Arguments shown = names.old_names(step.transition, step.arguments);
            events.emplace_back(kTransitions[static_cast<std::size_t>(step.transition)],
                                std::vector<int>(shown.begin(), shown.end()));
            if (!settings_.reduce || settings_.compares()) continue;
            const State state = store_.state(step.parent).state();
            M::successors(state, settings_.instance,
                          [&](State& next, Transition transition, const Arguments& arguments) {
                              if (transition != step.transition || arguments != step.arguments) return;
                              M::normalise(next, transition);
                              names = M::canonicalise(next).behind(names);
                          });
        }
        return events;
    }

    Settings settings_;
    Store<M> store_;
    std::vector<std::unique_ptr<Worker>> workers_;
    std::vector<std::vector<Candidate>> chunks_;
    std::vector<std::uint32_t> level_;
    std::vector<std::uint32_t> next_;
    std::atomic<std::size_t> next_chunk_ = 0;
    std::size_t at_ = 0;     // where in the level the round starts
    std::size_t round_ = 1;  // states in it
    std::size_t counted_ = 0;
    std::size_t states_ = 1;
    std::uint64_t rounds_ = 0;
    int depth_ = 0;
    bool complete_ = false;
    bool draining_ = false;  // no more states are collected
    bool done_ = false;
};

template <class M>
std::unique_ptr<Engine> make_engine() {
    return std::make_unique<Search<M>>();
}

}  // namespace tokenspeed::explorer
