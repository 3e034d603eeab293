// Breadth-first search of small instances: every reachable state is visited and checked, so a counterexample is
// shortest.
//
// The model (generated/model.h) is generated from the specification; arguments of a trace are individuals, or distances
// from the start of an integer's range. Python calls explore(); spec/explore.py turns the answer into text.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "generated/model.h"

namespace py = pybind11;

namespace tokenspeed::explorer {
namespace {

using Event = std::tuple<std::string, std::vector<int>>;

struct Result {
    std::size_t states = 0;
    std::size_t transitions = 0;
    int depth = 0;
    bool complete = true;
    std::string violated;      // the property that is false, or empty
    std::vector<Event> trace;  // from the start to the violation
    std::vector<std::uint64_t> taken = std::vector<std::uint64_t>(kTransitions.size(), 0);
};

// All states found so far, with how each was reached. Open addressing over the states' bytes.
template <class State>
class Visited {
  public:
    static constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();

    struct Step {
        std::uint32_t parent;
        Transition transition;
        std::array<std::int8_t, 4> arguments;
    };

    Visited() : table_(1 << 16, kNone) {}

    std::size_t size() const { return states_.size(); }
    const State& state(std::uint32_t at) const { return states_[at]; }
    const Step& step(std::uint32_t at) const { return steps_[at]; }

    // Adds the state if it is new; returns whether it is.
    bool add(const State& state, const Step& step) {
        if (states_.size() * 2 > table_.size()) grow();
        const std::size_t slot = find(state);
        if (table_[slot] != kNone) return false;
        table_[slot] = static_cast<std::uint32_t>(states_.size());
        states_.push_back(state);
        steps_.push_back(step);
        return true;
    }

  private:
    static std::uint64_t hash(const State& state) {
        std::array<std::uint64_t, (sizeof(State) + 7) / 8> words{};
        std::memcpy(words.data(), &state, sizeof(State));
        std::uint64_t h = 0x9e3779b97f4a7c15ULL;
        for (const std::uint64_t word : words) {
            h = (h ^ word) * 0xff51afd7ed558ccdULL;
            h ^= h >> 32;
        }
        return h;
    }
    std::size_t find(const State& state) const {
        std::size_t slot = hash(state) & (table_.size() - 1);
        while (table_[slot] != kNone && std::memcmp(&states_[table_[slot]], &state, sizeof(State)) != 0) {
            slot = (slot + 1) & (table_.size() - 1);
        }
        return slot;
    }
    void grow() {
        table_.assign(table_.size() * 2, kNone);
        for (std::uint32_t at = 0; at < states_.size(); ++at) table_[find(states_[at])] = at;
    }

    std::vector<std::uint32_t> table_;
    std::vector<State> states_;
    std::vector<Step> steps_;
};

template <class M>
Result search(const Instance& instance, std::size_t max_states, bool check_lemmas, const std::string& only) {
    using State = typename M::State;
    using Seen = Visited<State>;
    Result result;
    Seen seen;
    seen.add(M::initial(instance), {Seen::kNone, Transition{}, {}});
    std::size_t level_end = 1;
    const auto fail = [&](std::string_view property, std::uint32_t parent, Transition transition,
                          const std::array<int, 4>& arguments) {
        result.violated = property;
        std::vector<Event> reversed = {
            {std::string(kTransitions[static_cast<std::size_t>(transition)]), {arguments.begin(), arguments.end()}}};
        for (std::uint32_t at = parent; seen.step(at).parent != Seen::kNone; at = seen.step(at).parent) {
            const auto& step = seen.step(at);
            reversed.emplace_back(kTransitions[static_cast<std::size_t>(step.transition)],
                                  std::vector<int>(step.arguments.begin(), step.arguments.end()));
        }
        result.trace.assign(reversed.rbegin(), reversed.rend());
    };
    for (std::uint32_t at = 0; at < seen.size() && result.violated.empty(); ++at) {
        if (at == level_end) {
            ++result.depth;
            level_end = seen.size();
        }
        if (seen.size() > max_states) {
            result.complete = false;
            break;
        }
        const State state = seen.state(at);
        M::successors(state, instance, [&](State& next, Transition transition, const std::array<int, 4>& arguments) {
            if (!result.violated.empty() || instance.disabled[static_cast<std::size_t>(transition)]) return;
            ++result.transitions;
            ++result.taken[static_cast<std::size_t>(transition)];
            const int action = M::false_action(state, next, transition, instance);
            if (action >= 0 && (only.empty() || kActions[static_cast<std::size_t>(action)] == only)) {
                fail(kActions[static_cast<std::size_t>(action)], at, transition, arguments);
                return;
            }
            M::normalise(next);
            typename Seen::Step step{at, transition, {}};
            for (int i = 0; i < 4; ++i) step.arguments[i] = static_cast<std::int8_t>(arguments[i]);
            if (!seen.add(next, step)) return;
            if (const int invariant = M::false_invariant(next, instance, check_lemmas); invariant >= 0) {
                fail(kInvariants[static_cast<std::size_t>(invariant)], at, transition, arguments);
            }
        });
    }
    result.states = seen.size();
    return result;
}

Result explore(int requests, int blocks, int steps, const std::map<std::string, int>& constants,
               const std::vector<std::string>& dropped, std::size_t max_states, bool check_lemmas,
               const std::string& only) {
    Instance instance;
    for (const auto& [name, value] : constants) instance.set(name, value);
    for (const std::string& label : dropped) {
        const auto* guard = std::find(kGuards.begin(), kGuards.end(), label);
        const auto* effect = std::find(kEffects.begin(), kEffects.end(), label);
        if (guard != kGuards.end()) {
            instance.dropped[static_cast<std::size_t>(guard - kGuards.begin())] = true;
        } else if (effect != kEffects.end()) {
            instance.omitted[static_cast<std::size_t>(effect - kEffects.begin())] = true;
        } else if (const auto* t = std::find(kTransitions.begin(), kTransitions.end(), label); t != kTransitions.end()) {
            instance.disabled[static_cast<std::size_t>(t - kTransitions.begin())] = true;
        } else {
            throw std::invalid_argument("no guard is called " + label);
        }
    }
    if (!only.empty()) {
        const auto* at = std::find(kInvariants.begin(), kInvariants.end(), only);
        if (at == kInvariants.end() && std::find(kActions.begin(), kActions.end(), only) == kActions.end())
            throw std::invalid_argument("no property or counter is called " + only);
        instance.checked.fill(false);
        if (at != kInvariants.end()) instance.checked[static_cast<std::size_t>(at - kInvariants.begin())] = true;
    }
    py::gil_scoped_release release;
    switch (requests * 100 + blocks * 10 + steps) {
        case 121:
            return search<Model<1, 2, 1, 1, 1>>(instance, max_states, check_lemmas, only);
        case 122:
            return search<Model<1, 2, 2, 1, 1>>(instance, max_states, check_lemmas, only);
        case 221:
            return search<Model<2, 2, 1, 1, 1>>(instance, max_states, check_lemmas, only);
        case 222:
            return search<Model<2, 2, 2, 1, 1>>(instance, max_states, check_lemmas, only);
        case 232:
            return search<Model<2, 3, 2, 1, 1>>(instance, max_states, check_lemmas, only);
        case 332:
            return search<Model<3, 3, 2, 1, 1>>(instance, max_states, check_lemmas, only);
        default:
            throw std::invalid_argument("no instance of this size is compiled in");
    }
}

}  // namespace
}  // namespace tokenspeed::explorer

PYBIND11_MODULE(TOKENSPEED_MODULE, m) {
    namespace ex = tokenspeed::explorer;
    m.doc() = "Exhaustive search of small instances of the specification; see _explorer.pyi.";
    py::class_<ex::Result>(m, "Result")
        .def_readonly("states", &ex::Result::states)
        .def_readonly("transitions", &ex::Result::transitions)
        .def_readonly("depth", &ex::Result::depth)
        .def_readonly("complete", &ex::Result::complete)
        .def_readonly("violated", &ex::Result::violated)
        .def_readonly("trace", &ex::Result::trace)
        .def_property_readonly("taken", [](const ex::Result& self) {
            py::dict taken;
            for (std::size_t i = 0; i < ex::kTransitions.size(); ++i)
                taken[py::str(std::string(ex::kTransitions[i]))] = self.taken[i];
            return taken;
        });
    m.attr("SPEC_HASH") = std::string(ex::kSpecHash);
    m.attr("SIZES") = py::make_tuple(py::make_tuple(1, 2, 1), py::make_tuple(1, 2, 2), py::make_tuple(2, 2, 1),
                                     py::make_tuple(2, 2, 2), py::make_tuple(2, 3, 2), py::make_tuple(3, 3, 2));
    m.def("explore", &ex::explore, py::kw_only(), py::arg("requests"), py::arg("blocks"), py::arg("steps"),
          py::arg("constants"),
          py::arg("dropped") = std::vector<std::string>{}, py::arg("max_states") = std::size_t{2'000'000},
          py::arg("check_lemmas") = false, py::arg("only") = std::string{});
}
