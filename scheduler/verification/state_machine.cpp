#include "scheduler/verification/state_machine.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "scheduler/generated/machine.h"
#include "scheduler/verification/state_access.h"

namespace py = pybind11;

namespace tokenspeed {

#if TOKENSPEED_CHECKED

void bind_state_machine(py::module_&) {}

#else

namespace {

// An answer that no guard has: something changed that is no value of a state.
constexpr std::uint16_t kStray = 0xffff;

class StateMachine {
  public:
    StateMachine(const std::vector<std::int64_t>& constants, const std::vector<std::int32_t>& population) {
        if (constants.size() != kStateAccess.constants) throw std::invalid_argument("constants: a value for each");
        if (population.size() != kStateAccess.sorts) throw std::invalid_argument("population: a number for each sort");
        const auto outside = [](std::int64_t value) { return value < 0 || value > 99; };
        if (std::any_of(constants.begin(), constants.end(), outside)) {
            throw std::invalid_argument("constants: must be from 0 to 99");
        }
        if (std::any_of(population.begin(), population.end(), outside)) {
            throw std::invalid_argument("population: must be from 0 to 99 of each sort");
        }
        machine_ = kStateAccess.create(constants.data(), population.data());
        values_ = kStateAccess.values(machine_);
    }
    ~StateMachine() { kStateAccess.destroy(machine_); }
    StateMachine(const StateMachine&) = delete;
    StateMachine& operator=(const StateMachine&) = delete;

    std::pair<py::bytes, py::bytes> answer(std::string_view states, std::string_view counts,
                                           std::string_view proposals) {
        const std::size_t number = states.size() / values_;
        if (states.size() != number * values_) throw std::invalid_argument("states: not whole states");
        if (std::any_of(states.begin(), states.end(), [](char value) { return static_cast<signed char>(value) < 0; })) {
            throw std::invalid_argument("states: a value below 0");
        }
        if (counts.size() != number * sizeof(std::uint32_t)) {
            throw std::invalid_argument("counts: must be 4 bytes for each state");
        }
        if (proposals.size() % sizeof(Proposal) != 0) throw std::invalid_argument("proposals: not whole proposals");
        std::vector<Proposal> asked(proposals.size() / sizeof(Proposal));
        std::memcpy(asked.data(), proposals.data(), proposals.size());
        for (const Proposal& p : asked) {
            if (p.transition >= kTransitions) throw std::invalid_argument("proposals: no such transition");
        }
        {
            py::gil_scoped_release release;
            ask(reinterpret_cast<const std::int8_t*>(states.data()), counts.data(), number, asked);
        }
        return {py::bytes(reinterpret_cast<const char*>(answers_.data()), answers_.size() * sizeof(std::uint16_t)),
                py::bytes(reinterpret_cast<const char*>(after_.data()), after_.size())};
    }

  private:
    void ask(const std::int8_t* state, const char* counts, std::size_t number, const std::vector<Proposal>& asked) {
        answers_.clear();
        after_.clear();
        std::vector<std::int8_t> values(values_);
        const Proposal* proposal = asked.data();
        const Proposal* const end = proposal + asked.size();
        for (std::size_t i = 0; i < number; ++i, state += values_) {
            kStateAccess.restore(machine_, state);
            std::uint32_t count;
            std::memcpy(&count, counts + i * sizeof count, sizeof count);
            for (; count > 0 && proposal < end; --count, ++proposal) {
                std::uint16_t answer = 0;
                const bool clear = kStateAccess.take(machine_, proposal, &answer, values.data());
                answers_.push_back(clear ? answer : kStray);
                const bool changed = std::memcmp(values.data(), state, values_) != 0;
                if (answer == 0) after_.insert(after_.end(), values.begin(), values.end());
                if (answer != 0 && changed) answers_.back() = kStray;
            }
        }
    }

    std::size_t values_;
    void* machine_;
    std::vector<std::uint16_t> answers_;
    std::vector<std::int8_t> after_;
};

}  // namespace

void bind_state_machine(py::module_& m) {
    py::class_<StateMachine>(m, "StateMachine")
        .def(py::init<const std::vector<std::int64_t>&, const std::vector<std::int32_t>&>(), py::arg("constants"),
             py::arg("population"))
        .def(
            "answer",
            [](StateMachine& self, const py::bytes& states, const py::bytes& counts, const py::bytes& proposals) {
                return self.answer(states, counts, proposals);
            },
            py::arg("states"), py::arg("counts"), py::arg("proposals"));
}

#endif

}  // namespace tokenspeed
