// What a search is asked and what it answers, whatever the size of the instance.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "batch.h"
#include "generated/model.h"
#include "scheduler/verification/state_access.h"

namespace tokenspeed::explorer {

using Event = std::tuple<std::string, std::vector<int>>;

struct Settings {
    Instance instance;
    std::size_t max_states = 0;
    bool check_properties = true;
    bool check_lemmas = false;
    bool reduce = true;  // states that differ in the names of individuals only are one
    int threads = 1;
    const StateAccess* machine = nullptr;  // compare every state with this machine
    Ask ask;                               // or with one that this asks
    bool every_refusal = false;            // ask it about every refusal in every state

    bool compares() const { return machine != nullptr || ask; }
};

// The compiled machine answers otherwise than the model.
struct Divergence {
    std::vector<std::int8_t> state;  // in the order of spec/layout.py
    std::string transition;
    std::vector<int> arguments;
    int expected = 0;  // number of the first false guard, 0 for none
    int answered = 0;
    int value = -1;  // the first byte that differs afterwards, or -1
};

struct Result {
    std::size_t states = 0;
    std::size_t transitions = 0;
    int depth = 0;
    bool complete = true;
    std::string violated;      // the property that is false, or empty
    std::vector<Event> trace;  // from the start to the violation
    std::vector<std::uint64_t> taken = std::vector<std::uint64_t>(kTransitions.size(), 0);
    std::size_t compared = 0;  // states in which the machine was asked
    std::size_t accepted = 0;  // proposals that model and machine accept, with the same result
    std::size_t refused = 0;   // proposals that both refuse for the same reason, and nothing changes
    std::size_t implied = 0;   // not asked: the guards read the same values in a state before
    std::size_t judged = 0;    // different values that the guards read
    std::vector<bool> refusing = std::vector<bool>(kGuards.size());  // guards that were seen to refuse
    std::vector<Divergence> divergences;
    bool agrees = true;  // false: a batch was answered wrongly
};

// What the model says to a proposal.
struct Answer {
    std::string transition;
    std::vector<int> arguments;
    int guard = 0;                   // number of the first false guard, 0 for none
    std::vector<std::int8_t> after;  // the next state, if there is one
};

// Searches one instance; the states found stay in it.
class Engine {
  public:
    virtual ~Engine() = default;
    virtual Result run(const Settings& settings) = 0;
    // The bytes of some of the states found, one after the other.
    virtual std::vector<std::int8_t> sample(std::size_t first, std::size_t stride) const = 0;
    // What the guards say in some of the states found, each for itself and about all proposals.
    virtual std::array<Seen, kGuards.size()> guards(const Instance& instance, std::size_t stride) const = 0;
    // All proposals in a state.
    virtual std::vector<Answer> answers(const Instance& instance, const std::vector<std::int8_t>& state) const = 0;
    virtual std::size_t state_bytes() const = 0;
    virtual std::size_t packed_bytes() const = 0;
    // Individuals get names as in `orders`, one list for each sort, and then those of the normal form.
    virtual std::vector<std::int8_t> canonical(const std::vector<std::int8_t>& state,
                                               const std::vector<std::vector<int>>& orders) const = 0;
};

template <class M>
std::unique_ptr<Engine> make_engine();

struct CompiledSize {
    std::array<int, std::tuple_size_v<decltype(kSorts)>> population;
    std::unique_ptr<Engine> (*make)();
};

}  // namespace tokenspeed::explorer
