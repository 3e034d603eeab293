// The generated machine itself, for tests and tools: proposals by number, and every variable by name.
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "scheduler/python/bindings.h"

namespace tokenspeed {

namespace py = pybind11;

py::dict snapshot_of(const Machine& machine) {
    py::dict result;
    machine.visit([&](const char* name, const std::vector<int>& index, std::int64_t value) {
        if (!result.contains(name)) result[name] = py::dict();
        if (value != 0) result[name][py::tuple(py::cast(index))] = value;
    });
    return result;
}

py::dict limits_of(const Machine& machine) {
    py::dict result;
    machine.limits().visit([&](const char* name, std::int64_t value) { result[name] = value; });
    return result;
}

void bind_machine(py::module_& m) {
    py::class_<Machine>(m, "Machine")
        .def(py::init([](std::int64_t page, std::int64_t blocks, StepId steps, std::int64_t hosts, CopyId copies,
                         std::int64_t width, std::int64_t window) {
                 if (page < 1 || blocks < 0 || steps < 0 || hosts < 0 || copies < 0 || width < 1 || window < 1) {
                     throw py::value_error("page, width and window must be at least 1, the others at least 0");
                 }
                 return Machine(Limits{.page = page,
                                       .blocks = blocks,
                                       .room = page * blocks,
                                       .hosts = hosts,
                                       .width = width,
                                       .window = window,
                                       .step_records = steps,
                                       .copy_records = copies});
             }),
             py::kw_only(), py::arg("page"), py::arg("blocks"), py::arg("steps"), py::arg("hosts") = 0,
             py::arg("copies") = 0, py::arg("width") = 1, py::arg("window") = std::int64_t{1} << 40)
        .def_property_readonly("limits", [](const Machine& self) { return limits_of(self); })
        .def("add_request", &Machine::add_request)
        .def(
            "apply",
            [](Machine& self, int transition, const std::vector<std::int64_t>& given) {
                if (transition < 0 || transition >= static_cast<int>(kTransitions) || given.size() > 4) {
                    throw py::value_error("there is no such transition, or more than four arguments");
                }
                std::array<std::int64_t, 4> arguments{};
                std::copy(given.begin(), given.end(), arguments.begin());
                const Guard guard = self.apply(static_cast<Transition>(transition), arguments);
                return guard == Guard::none ? std::string() : std::string(kGuardNames[static_cast<std::size_t>(guard)]);
            },
            py::arg("transition"), py::arg("arguments"))
        .def("snapshot", &snapshot_of);
}

}  // namespace tokenspeed
