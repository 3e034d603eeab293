// The Python module `_core`: the driver contract. `_core.pyi` documents every name.
#include <pybind11/pybind11.h>

#include <string>

#include "scheduler/python/bindings.h"
#include "scheduler/verification/state_access.h"
#include "scheduler/verification/state_machine.h"

namespace py = pybind11;
namespace ts = tokenspeed;

namespace {

#if TOKENSPEED_CHECKED
constexpr bool kChecked = true;
#else
constexpr bool kChecked = false;
#endif

}  // namespace

PYBIND11_MODULE(TOKENSPEED_MODULE, m) {
    m.doc() = "The compiled scheduler; see _core.pyi.";
    m.attr("SPEC_HASH") = std::string(ts::kSpecHash);
    m.attr("SOURCE_HASH") = TOKENSPEED_SOURCE_HASH;
    m.attr("CHECKED") = kChecked;
    py::list names;
    for (const auto& name : ts::kTransitionNames) names.append(std::string(name));
    m.attr("TRANSITIONS") = py::tuple(names);
    py::list guards;
    for (const auto& name : ts::kGuardNames) guards.append(std::string(name));
    m.attr("GUARDS") = py::tuple(guards);
#if TOKENSPEED_CHECKED
    m.attr("STATE_ACCESS") = py::none();
#else
    m.attr("STATE_ACCESS") = py::capsule(&ts::kStateAccess, ts::kStateAccessName);
#endif
    ts::bind_errors(m);
    ts::bind_config(m);
    ts::bind_plan(m);
    ts::bind_policy(m);
    ts::bind_scheduler(m);
    ts::bind_machine(m);
    ts::bind_state_machine(m);
}
