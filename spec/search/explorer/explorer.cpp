// The Python module `_explorer`: searches of small instances; see _explorer.pyi. spec/explore.py and spec/lockstep.py
// turn the answers into text. Arguments of a trace are individuals, or distances from the start of an integer's range.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "engine.h"
#include "generated/sizes.h"

namespace py = pybind11;

namespace tokenspeed::explorer {
namespace {

std::unique_ptr<Engine> engine_for(const std::map<std::string, int>& population) {
    for (const CompiledSize& size : kCompiledSizes) {
        bool same = population.size() == kSorts.size();
        for (std::size_t i = 0; i < kSorts.size() && same; ++i) {
            const auto given = population.find(std::string(kSorts[i]));
            same = given != population.end() && given->second == size.population[i];
        }
        if (same) return size.make();
    }
    throw std::invalid_argument("no instance of this size is compiled in");
}

Instance instance_of(const std::map<std::string, int>& constants) {
    Instance instance;
    for (const auto& [name, value] : constants) instance.set(name, value);
    return instance;
}

void switch_off(Instance& instance, const std::string& label) {
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

void check_only(Instance& instance, const std::string& name) {
    const auto* invariant = std::find(kInvariants.begin(), kInvariants.end(), name);
    const auto* action = std::find(kActions.begin(), kActions.end(), name);
    instance.checked.fill(false);
    instance.kept.fill(false);
    if (invariant != kInvariants.end()) {
        instance.checked[static_cast<std::size_t>(invariant - kInvariants.begin())] = true;
    } else if (action != kActions.end()) {
        instance.kept[static_cast<std::size_t>(action - kActions.begin())] = true;
    } else {
        throw std::invalid_argument("no property or counter is called " + name);
    }
}

py::bytes as_bytes(const std::vector<std::int8_t>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size()};
}

template <class T>
py::bytes raw(const std::vector<T>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// Threads of the search take turns in Python.
Ask asked_by(const py::object& ask) {
    return [&ask](const Batch& batch) {
        py::gil_scoped_acquire acquire;
        return ask(raw(batch.states), raw(batch.counts), raw(batch.proposals), raw(batch.answers), raw(batch.after))
            .cast<bool>();
    };
}

Result explore(Engine& engine, const std::map<std::string, int>& constants, const std::vector<std::string>& dropped,
               std::size_t max_states, bool check_lemmas, const std::string& only, bool reduce, int threads,
               const py::object& machine, bool every_refusal, bool check_properties, const py::object& ask) {
    Settings settings;
    settings.instance = instance_of(constants);
    for (const std::string& label : dropped) switch_off(settings.instance, label);
    if (!only.empty()) check_only(settings.instance, only);
    settings.max_states = max_states;
    settings.check_lemmas = check_lemmas;
    settings.reduce = reduce;
    settings.threads = threads;
    settings.every_refusal = every_refusal;
    settings.check_properties = check_properties;
    if (!machine.is_none() && !ask.is_none()) throw std::invalid_argument("machine and ask: give one of them");
    if (!ask.is_none()) settings.ask = asked_by(ask);
    if (!machine.is_none()) {
        const auto capsule = machine.cast<py::capsule>();
        if (std::string(capsule.name()) != kStateAccessName) throw std::invalid_argument("machine: no state access");
        settings.machine = capsule.get_pointer<StateAccess>();
        if (settings.machine->spec_hash != kSpecHash || settings.machine->bad_index != kBadIndex) {
            throw std::invalid_argument("the machine was generated from another specification; rebuild both");
        }
    }
    py::gil_scoped_release release;
    return engine.run(settings);
}

void check(std::size_t stride) {
    if (stride == 0) throw std::invalid_argument("stride: 0; it must be at least 1");
}

// The guards that were seen to be true, and those that were seen to be false.
py::tuple guards(const Engine& engine, const std::map<std::string, int>& constants, std::size_t stride) {
    check(stride);
    const auto seen = engine.guards(instance_of(constants), stride);
    py::set held;
    py::set failed;
    for (std::size_t i = 0; i < kGuards.size(); ++i) {
        if (seen[i].held) held.add(py::str(std::string(kGuards[i])));
        if (seen[i].failed) failed.add(py::str(std::string(kGuards[i])));
    }
    return py::make_tuple(held, failed);
}

py::dict taken_by_name(const Result& result) {
    py::dict taken;
    for (std::size_t i = 0; i < kTransitions.size(); ++i)
        taken[py::str(std::string(kTransitions[i]))] = result.taken[i];
    return taken;
}

}  // namespace
}  // namespace tokenspeed::explorer

PYBIND11_MODULE(TOKENSPEED_MODULE, m) {
    namespace ex = tokenspeed::explorer;
    m.doc() = "Exhaustive search of small instances of the specification; see _explorer.pyi.";
    py::class_<ex::Divergence>(m, "Divergence")
        .def_property_readonly("state", [](const ex::Divergence& self) { return ex::as_bytes(self.state); })
        .def_readonly("transition", &ex::Divergence::transition)
        .def_readonly("arguments", &ex::Divergence::arguments)
        .def_readonly("expected", &ex::Divergence::expected)
        .def_readonly("answered", &ex::Divergence::answered)
        .def_readonly("value", &ex::Divergence::value);
    py::class_<ex::Result>(m, "Result")
        .def_readonly("states", &ex::Result::states)
        .def_readonly("transitions", &ex::Result::transitions)
        .def_readonly("depth", &ex::Result::depth)
        .def_readonly("complete", &ex::Result::complete)
        .def_readonly("violated", &ex::Result::violated)
        .def_readonly("trace", &ex::Result::trace)
        .def_property_readonly("taken", &ex::taken_by_name)
        .def_readonly("compared", &ex::Result::compared)
        .def_readonly("accepted", &ex::Result::accepted)
        .def_readonly("refused", &ex::Result::refused)
        .def_readonly("implied", &ex::Result::implied)
        .def_readonly("judged", &ex::Result::judged)
        .def_readonly("agrees", &ex::Result::agrees)
        .def_property_readonly("refusing",
                               [](const ex::Result& self) {
                                   py::set labels;
                                   for (std::size_t i = 0; i < ex::kGuards.size(); ++i) {
                                       if (self.refusing[i]) labels.add(py::str(std::string(ex::kGuards[i])));
                                   }
                                   return labels;
                               })
        .def_readonly("divergences", &ex::Result::divergences);
    m.attr("SPEC_HASH") = std::string(ex::kSpecHash);
    py::class_<ex::Engine>(m, "Explorer")
        .def(py::init(&ex::engine_for), py::arg("population"))
        .def_property_readonly("state_bytes", &ex::Engine::state_bytes)
        .def_property_readonly("packed_bytes", &ex::Engine::packed_bytes)
        .def("explore", &ex::explore, py::kw_only(), py::arg("constants"),
             py::arg("dropped") = std::vector<std::string>{}, py::arg("max_states") = std::size_t{2'000'000},
             py::arg("check_lemmas") = false, py::arg("only") = std::string{}, py::arg("reduce") = true,
             py::arg("threads") = 1, py::arg("machine") = py::none(), py::arg("every_refusal") = false,
             py::arg("check_properties") = true, py::arg("ask") = py::none())
        .def(
            "sample",
            [](const ex::Engine& self, std::size_t first, std::size_t stride) {
                ex::check(stride);
                return ex::as_bytes(self.sample(first, stride));
            },
            py::arg("first"), py::arg("stride"))
        .def("guards", &ex::guards, py::arg("constants"), py::arg("stride"))
        .def(
            "answers",
            [](const ex::Engine& self, const std::map<std::string, int>& constants, const std::string& state) {
                py::list result;
                for (const auto& a : self.answers(ex::instance_of(constants), {state.begin(), state.end()})) {
                    result.append(py::make_tuple(a.transition, a.arguments, a.guard, ex::as_bytes(a.after)));
                }
                return result;
            },
            py::arg("constants"), py::arg("state").noconvert())
        .def(
            "canonical",
            [](const ex::Engine& self, const std::string& state, const std::vector<std::vector<int>>& orders) {
                return ex::as_bytes(self.canonical({state.begin(), state.end()}, orders));
            },
            py::arg("state").noconvert(), py::arg("orders"));
}
